//! The requests about exports, checked: names, numbers and secrets are what iSCSI can carry.

use std::net::Ipv6Addr;

use cx_api::export::{MAX_CHAP, MAX_INITIATORS, MAX_ISCSI_NAME, MAX_LUN, MIN_CHAP_SECRET};
use cx_api::{ChapLogin, ExportAccess, ExportCreate, Problem, paths};

use super::answer::{Handled, flag, image_key};
use super::control::Control;
use super::reply::Reply;
use super::request::{Request, invalid};

pub(super) async fn create<C: Control>(control: &C, request: &Request) -> Handled {
    let body: ExportCreate = request.json()?;
    check(&body)?;
    let export = control.export_create(image_key(&body.image)?, body).await?;
    let place = paths::export(&export.image.to_string());
    Ok(Reply::json(&export).with_status(201).at(place))
}

pub(super) async fn remove<C: Control>(control: &C, segment: &str, request: &Request) -> Handled {
    let force = flag(request, "force")?;
    control.export_remove(image_key(segment)?, force).await.map(|()| Reply::nothing())
}

pub(super) async fn access<C: Control>(control: &C, segment: &str, request: &Request) -> Handled {
    let body: ExportAccess = request.json()?;
    check_access(&body)?;
    Ok(Reply::json(&control.export_access(image_key(segment)?, body).await?))
}

pub(super) async fn connect<C: Control>(control: &C, segment: &str, request: &Request) -> Handled {
    let portal = request.param("portal")?.map(|text| portal(&text)).transpose()?;
    Ok(Reply::json(&control.export_connect(image_key(segment)?, portal).await?))
}

fn check(body: &ExportCreate) -> Result<(), Problem> {
    if let Some(lun) = body.lun.filter(|lun| *lun > MAX_LUN) {
        return Err(invalid(format!("there is no LUN {lun}")).fix(format!("choose one of 0 to {MAX_LUN}")));
    }
    check_list(&body.acl)?;
    if let Some(beside) = &body.beside {
        image_key(beside)?;
        if !body.acl.is_empty() || body.chap.is_some() || body.mutual_chap.is_some() {
            return Err(invalid("a further disk of a target has no access rules of its own")
                .because("whoever logs in to a target reaches all its disks")
                .fix(format!("change those of the target: chronogate export set {beside}")));
        }
    }
    check_logins(&body.chap, &body.mutual_chap)?;
    match (&body.chap, &body.mutual_chap) {
        (None, Some(_)) => Err(invalid("the target would prove who it is to initiators that need not")
            .because("mutual CHAP is CHAP in both directions")
            .fix("say what initiators have to know as well (--chap)")),
        _ => Ok(()),
    }
}

fn check_access(body: &ExportAccess) -> Result<(), Problem> {
    check_list(body.acl.as_deref().unwrap_or_default())?;
    check_logins(&body.chap, &body.mutual_chap)?;
    let both = body.no_chap && (body.chap.is_some() || body.mutual_chap.is_some())
        || body.no_mutual_chap && body.mutual_chap.is_some();
    if both {
        return Err(invalid("a CHAP secret is given and taken away").fix("say one of the two"));
    }
    if *body == ExportAccess::default() {
        return Err(invalid("nothing is to be changed")
            .fix("say what: --acl, --any-initiator, --chap, --mutual-chap, --no-chap or --no-mutual-chap"));
    }
    Ok(())
}

fn check_list(acl: &[String]) -> Result<(), Problem> {
    if acl.len() > MAX_INITIATORS {
        return Err(invalid(format!("the list names {} initiators", acl.len()))
            .because(format!("an export lets in at most {MAX_INITIATORS} by name"))
            .fix("use --chap for more"));
    }
    acl.iter().try_for_each(|name| check_initiator(name))
}

fn check_logins(chap: &Option<ChapLogin>, mutual: &Option<ChapLogin>) -> Result<(), Problem> {
    let logins = [chap, mutual];
    logins.into_iter().flatten().try_for_each(check_login)?;
    match logins {
        [Some(one), Some(other)] if one.secret == other.secret => {
            Err(invalid("both directions of CHAP have the same secret")
                .because("whoever knows one could then pass for the other (RFC 7143 section 9.2.1)")
                .fix("choose two secrets"))
        }
        _ => Ok(()),
    }
}

/// As RFC 7143 section 4.2.7 has them; capitals are the same as small letters.
fn check_initiator(name: &str) -> Result<(), Problem> {
    let kind = ["iqn.", "eui.", "naa."]
        .iter()
        .any(|kind| name.get(..kind.len()).is_some_and(|start| start.eq_ignore_ascii_case(kind)));
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:_".contains(&b));
    if kind && plain && name.len() <= MAX_ISCSI_NAME {
        return Ok(());
    }
    let shown: String = name.chars().take(MAX_ISCSI_NAME).collect();
    Err(invalid(format!("{shown:?} is no name of an iSCSI initiator"))
        .because(
            "such a name begins with iqn., eui. or naa. and has letters, digits, dots, dashes and colons",
        )
        .fix("give it as the initiator shows it, for example iqn.1998-01.com.vmware:esx1"))
}

/// The secret is in no message.
fn check_login(login: &ChapLogin) -> Result<(), Problem> {
    let visible = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
    if login.user.is_empty() || login.user.len() > MAX_CHAP || !visible(&login.user) {
        return Err(invalid(format!("{:?} is no CHAP name", login.user))
            .because(format!("one has 1 to {MAX_CHAP} visible ASCII characters")));
    }
    if !visible(&login.secret) {
        return Err(invalid(format!("the CHAP secret of {} cannot be typed everywhere", login.user))
            .because("a secret has visible ASCII characters only")
            .fix("choose another one"));
    }
    match login.secret.len() {
        MIN_CHAP_SECRET..=MAX_CHAP => Ok(()),
        length => Err(invalid(format!("the CHAP secret of {} has {length} characters", login.user))
            .because(
                "shorter ones than 12 are found by trying, and longer ones than 255 are not taken everywhere",
            )
            .fix("choose one of 12 to 255 characters; Windows takes up to 16")),
    }
}

/// `HOST` or `HOST:PORT`, with the port that iSCSI has unless it is said.
fn portal(text: &str) -> Result<String, Problem> {
    let wrong = || {
        invalid(format!("{:?} is no portal", text.chars().take(300).collect::<String>()))
            .fix("give HOST or HOST:PORT, for example 10.0.0.5:3260")
    };
    if text.parse::<Ipv6Addr>().is_ok() {
        return Ok(format!("[{text}]:3260"));
    }
    let whole = text.ends_with(']') || !text.contains(':');
    let (host, port) = if whole { (text, "3260") } else { text.rsplit_once(':').ok_or_else(wrong)? };
    port.parse::<u16>().map_err(|_| wrong())?;
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let named = |host: &str| {
        !host.is_empty()
            && host.len() <= 253
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b))
    };
    if inner.is_some_and(|host| host.parse::<Ipv6Addr>().is_ok()) || named(host) {
        return Ok(format!("{host}:{port}"));
    }
    Err(wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> ExportCreate {
        serde_json::from_str(r#"{"image": "3", "protocol": "iscsi"}"#).unwrap()
    }

    fn login(user: &str, secret: &str) -> Option<ChapLogin> {
        Some(ChapLogin { user: user.into(), secret: secret.into() })
    }

    #[test]
    fn what_iscsi_cannot_carry_is_refused_without_telling_the_secret() {
        let (good, other) = (login("esx", "twelve-chars"), login("gateway", "other-twelve"));
        check(&plain()).unwrap();
        check(&ExportCreate { chap: good.clone(), mutual_chap: other.clone(), lun: Some(255), ..plain() })
            .unwrap();
        let names =
            ["iqn.1998-01.com.vmware:esx1", "eui.02004567A425678D", "IQN.2026-01.example:B", "naa.6001"];
        check(&ExportCreate { acl: names.map(str::to_owned).into(), ..plain() }).unwrap();
        let bad = [
            ExportCreate { lun: Some(256), ..plain() },
            ExportCreate { mutual_chap: other, ..plain() },
            ExportCreate { chap: good.clone(), mutual_chap: login("gateway", "twelve-chars"), ..plain() },
            ExportCreate { chap: login("", "twelve-chars"), ..plain() },
            ExportCreate { chap: login("e s", "twelve-chars"), ..plain() },
            ExportCreate { chap: login("esx", "twelve-char"), ..plain() },
            ExportCreate { chap: login("esx", "twelve chars"), ..plain() },
            ExportCreate { chap: login("esx", &"x".repeat(256)), ..plain() },
            ExportCreate { acl: vec!["esx1".into()], ..plain() },
            ExportCreate { acl: vec!["iqn.a b".into()], ..plain() },
            ExportCreate { acl: vec!["iqn.a\u{e9}".into()], ..plain() },
            ExportCreate { acl: vec![format!("iqn.{}", "x".repeat(220))], ..plain() },
            ExportCreate { acl: vec!["iqn.x".into(); 65], ..plain() },
            ExportCreate { beside: Some("other".into()), chap: login("esx", "twelve-chars"), ..plain() },
        ];
        for body in bad {
            let said = check(&body).unwrap_err();
            let text = format!("{} {} {}", said.detail, said.cause, said.correction);
            assert!(!text.contains("twelve"), "{text}");
        }
    }

    #[test]
    fn rules_are_changed_one_way_or_the_other() {
        let plain = ExportAccess::default;
        let (chap, acl) = (login("esx", "twelve-chars"), vec!["iqn.2026-01.example:a".to_owned()]);
        for good in [
            ExportAccess { acl: Some(Vec::new()), ..plain() },
            ExportAccess { acl: Some(acl), chap: chap.clone(), no_mutual_chap: true, ..plain() },
            ExportAccess { no_chap: true, ..plain() },
        ] {
            check_access(&good).unwrap();
        }
        for bad in [
            plain(),
            ExportAccess { acl: Some(vec!["esx".into()]), ..plain() },
            ExportAccess { chap: chap.clone(), no_chap: true, ..plain() },
            ExportAccess { mutual_chap: chap.clone(), no_mutual_chap: true, ..plain() },
            ExportAccess { chap: chap.clone(), mutual_chap: chap, ..plain() },
        ] {
            assert!(check_access(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_portal_has_a_host_and_perhaps_a_port() {
        for (text, whole) in [
            ("10.0.0.5", "10.0.0.5:3260"),
            ("10.0.0.5:13260", "10.0.0.5:13260"),
            ("gateway.example", "gateway.example:3260"),
            ("::1", "[::1]:3260"),
            ("[::1]", "[::1]:3260"),
            ("[fe80::1]:7", "[fe80::1]:7"),
        ] {
            assert_eq!(portal(text).unwrap(), whole);
        }
        for bad in ["", ":", ":3260", "a:b", "a b", "a;b:1", "$(x)", "[x]:1", "a:99999"] {
            assert!(portal(bad).is_err(), "{bad}");
        }
    }
}
