//! `chronogate group`.

use clap::{Args, Subcommand};
use cx_api::{GroupPointView, GroupView, paths};
use tap_block::Name;

use super::{Context, Globals, Result};
use crate::output::{self, print, print_json};

/// Of `group`.
#[derive(Debug, Args)]
pub(crate) struct GroupArgs {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: GroupCommand,
}

#[derive(Debug, Subcommand)]
enum GroupCommand {
    /// Lists the consistency groups
    Ls,
    /// Shows a group: its members, and the points that all of them share
    Show {
        /// The group
        group: Name,
    },
    /// Finds the newest point that every member has, with its place in each
    Point {
        /// The group
        group: Name,
        /// Not before this: an RFC 3339 time, or a time ago such as -10m
        #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
        after: Option<String>,
        /// Not after this
        #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
        before: Option<String>,
    },
}

pub(super) async fn run(args: GroupArgs) -> Result<()> {
    let context = Context::new(&args.globals)?;
    match args.command {
        GroupCommand::Ls => {
            let groups: Vec<GroupView> = context.all(paths::GROUPS).await?;
            if context.json() { print_json(&groups) } else { print(&list(&groups)) }
        }
        GroupCommand::Show { group } => {
            let group: GroupView = context.client.get(&paths::group(group.as_str())).await?;
            if context.json() { print_json(&group) } else { print(&shown(&group)) }
        }
        GroupCommand::Point { group, after, before } => {
            let path = paths::group_point(group.as_str(), after.as_deref(), before.as_deref());
            let point: GroupPointView = context.client.get(&path).await?;
            if context.json() { print_json(&point) } else { print(&place(&point)) }
        }
    }
}

fn list(groups: &[GroupView]) -> String {
    let row = |group: &GroupView| {
        [
            group.name.to_string(),
            group.volumes.join(","),
            group.point_count.to_string(),
            output::or_dash(group.newest.as_ref().map(|point| point.time)),
            output::or_dash(group.age_seconds.map(output::seconds)),
        ]
    };
    let rows: Vec<_> = groups.iter().map(row).collect();
    output::table(["GROUP", "VOLUMES", "POINTS", "NEWEST", "AGE"], &rows)
}

fn shown(group: &GroupView) -> String {
    let point = |point: &Option<GroupPointView>| {
        output::or_dash(point.as_ref().map(|p| format!("{}  {}", p.point, p.time)))
    };
    let policies =
        if group.one_policy { "one" } else { "several: fewer points are kept in all members than in each" };
    output::fields(&[
        ("group", group.name.to_string()),
        ("volumes", group.volumes.join(", ")),
        ("points", group.point_count.to_string()),
        ("oldest", point(&group.oldest)),
        ("newest", point(&group.newest)),
        ("age", output::or_dash(group.age_seconds.map(output::seconds))),
        ("policies", policies.to_owned()),
    ])
}

/// A line for each member.
pub(super) fn place(point: &GroupPointView) -> String {
    let named = point.bookmark.as_ref().map(|name| format!("  {name}")).unwrap_or_default();
    let mut text = format!("{}@{}  {}{named}\n", point.group, point.point, point.time);
    for member in &point.members {
        text += &format!("  {}  lsn:{}\n", member.export, member.lsn.get());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_shown_with_its_points() {
        let golden = include_str!("../../../../cx/api/tests/golden/group.json");
        let group: GroupView = serde_json::from_str(golden).unwrap();
        let table = list(std::slice::from_ref(&group));
        assert!(table.contains("db     data01,log01  2       2026-11-22T10:00:01.25Z"), "{table}");
        let text = shown(&group);
        assert!(text.contains("mark:1795341601250000000  2026-11-22T10:00:01.25Z"), "{text}");
        assert_eq!(
            place(&group.oldest.unwrap()),
            "db@mark:1795341600250000000  2026-11-22T10:00:00.25Z  before-upgrade\n  \
             data01@mark:1795341600250000000  lsn:40\n  log01@mark:1795341600250000000  lsn:41\n"
        );
    }
}
