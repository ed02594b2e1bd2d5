//! The description says what the routes do, and the types what it says.

use std::collections::{BTreeMap, BTreeSet};

use cx_api::{Code, paths};
use gateway_server::http::routes;
use serde_json::Value;

use super::Server;

async fn document() -> Value {
    Server::new().await.get(paths::OPENAPI).await.json()
}

#[tokio::test]
async fn every_route_is_described_and_nothing_else() {
    let document = document().await;
    let described: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            item.as_object().unwrap().keys().map(move |m| (m.to_uppercase(), path.clone()))
        })
        .collect();
    let served: BTreeSet<_> =
        routes().iter().map(|r| (r.method.as_str().to_owned(), r.template.to_owned())).collect();
    assert_eq!(described, served);
    assert_eq!(routes().len(), served.len(), "a route comes twice");
}

#[tokio::test]
async fn every_reference_leads_somewhere_and_every_operation_has_its_own_name() {
    let document = document().await;
    let mut references = Vec::new();
    collect("$ref", &document, &mut references);
    assert!(!references.is_empty());
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    let mut names = Vec::new();
    collect("operationId", &document, &mut names);
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    assert_eq!(names.len(), routes().len());
}

#[tokio::test]
async fn schemas_have_the_fields_of_the_types() {
    let document = document().await;
    let golden = [
        ("Volume", include_str!("../../../../cx/api/tests/golden/volume.json")),
        ("Point", include_str!("../../../../cx/api/tests/golden/point.json")),
        ("Group", include_str!("../../../../cx/api/tests/golden/group.json")),
        ("Image", include_str!("../../../../cx/api/tests/golden/image.json")),
        ("Policy", include_str!("../../../../cx/api/tests/golden/policy.json")),
        ("Timeline", include_str!("../../../../cx/api/tests/golden/timeline.json")),
        ("PolicyPreview", include_str!("../../../../cx/api/tests/golden/preview.json")),
        ("Elapsed", include_str!("../../../../cx/api/tests/golden/elapsed.json")),
        ("Stores", include_str!("../../../../cx/api/tests/golden/stores.json")),
        ("Diff", include_str!("../../../../cx/api/tests/golden/diff.json")),
        ("Verification", include_str!("../../../../cx/api/tests/golden/verification.json")),
        ("Job", include_str!("../../../../cx/api/tests/golden/job.json")),
        ("Session", include_str!("../../../../cx/api/tests/golden/session.json")),
        ("Session", include_str!("../../../../cx/api/tests/golden/session-iscsi.json")),
        ("Export", include_str!("../../../../cx/api/tests/golden/export.json")),
        ("Connect", include_str!("../../../../cx/api/tests/golden/connect.json")),
        ("Status", include_str!("../../../../cx/api/tests/golden/status.json")),
        ("Health", include_str!("../../../../cx/api/tests/golden/health.json")),
        ("Problem", include_str!("../../../../cx/api/tests/golden/problem.json")),
    ];
    for (schema, json) in golden {
        conforms(&document, schema, &serde_json::from_str(json).unwrap());
    }
    let bookmarks: Value =
        serde_json::from_str(include_str!("../../../../cx/api/tests/golden/bookmarks.json")).unwrap();
    conforms(&document, "Bookmark", &bookmarks["items"][0]);
    let volume: Value =
        serde_json::from_str(include_str!("../../../../cx/api/tests/golden/volume.json")).unwrap();
    conforms(&document, "Sync", &volume["sync"]);
    let group: Value =
        serde_json::from_str(include_str!("../../../../cx/api/tests/golden/group.json")).unwrap();
    conforms(&document, "GroupPoint", &group["newest"]);
    conforms(&document, "MemberPoint", &group["newest"]["members"][0]);
    let connect: Value =
        serde_json::from_str(include_str!("../../../../cx/api/tests/golden/connect.json")).unwrap();
    conforms(&document, "ClientLines", &connect["clients"][0]);
    conforms(&document, "Gap", &volume["gaps"][0]);
    conforms(&document, "Proof", &volume["verified"]);
    conforms(&document, "Limit", &volume["history_limit"]);
    let timeline: Value =
        serde_json::from_str(include_str!("../../../../cx/api/tests/golden/timeline.json")).unwrap();
    conforms(&document, "History", &timeline["history"]);
    conforms(&document, "Stretch", &timeline["stretches"][0]);
    conforms(&document, "AtGate", &timeline["gates"][0]);
    conforms(&document, "Tier", &timeline["policy"]["retention"]["tiers"][0]);
    conforms(&document, "Gate", &timeline["policy"]["retention"]["tiers"][0]["before_drop"]);
    let verification: Value =
        serde_json::from_str(include_str!("../../../../cx/api/tests/golden/verification.json")).unwrap();
    conforms(&document, "Finding", &verification["findings"][0]);
}

#[tokio::test]
async fn every_code_is_described() {
    let document = document().await;
    let described: BTreeSet<_> = document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]
        .as_array()
        .unwrap()
        .iter()
        .map(|word| word.as_str().unwrap())
        .collect();
    assert_eq!(described, Code::ALL.iter().map(|c| c.as_str()).collect());
}

#[test]
fn the_page_for_people_lists_every_route_and_code() {
    let page = include_str!("../../../../docs/api.md");
    let rows: Vec<String> =
        page.lines().filter(|l| l.starts_with('|')).map(|l| l.replace(['`', ' '], "")).collect();
    let listed = |row: &str| rows.iter().any(|r| r.starts_with(row));
    for route in routes() {
        let row = format!("|{}|{}|", route.method.as_str(), route.template);
        assert!(listed(&row), "{row} is missing in docs/api.md");
    }
    for code in Code::ALL {
        let row = format!("|{}|{}|{}|", code.as_str(), code.http_status(), code.exit_status().number());
        assert!(listed(&row), "{row} is missing in docs/api.md");
    }
    assert_eq!(rows.iter().filter(|r| r.contains("|/api/") || r.contains("|/")).count(), routes().len());
}

/// The same fields, and each of a JSON type that the schema allows.
fn conforms(document: &Value, schema: &str, value: &Value) {
    let properties = document["components"]["schemas"][schema]["properties"].as_object().unwrap();
    let described: BTreeMap<_, _> = properties.iter().collect();
    let found = value.as_object().unwrap();
    let names = |keys: Vec<&String>| keys.into_iter().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(described.keys().copied().collect()), names(found.keys().collect()), "{schema}");
    for (field, value) in found {
        let allowed = types(document, described[field]);
        let is = kind(value);
        assert!(
            allowed.contains(is) || (is == "integer" && allowed.contains("number")),
            "{schema}.{field} is {is}"
        );
    }
}

fn types(document: &Value, schema: &Value) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    match &schema["type"] {
        Value::String(one) => drop(all.insert(one.clone())),
        Value::Array(many) => all.extend(many.iter().map(|t| t.as_str().unwrap().to_owned())),
        _ => {}
    }
    if let Some(reference) = schema["$ref"].as_str() {
        all.extend(types(document, document.pointer(reference.strip_prefix('#').unwrap()).unwrap()));
    }
    for one in schema["oneOf"].as_array().into_iter().flatten() {
        all.extend(types(document, one));
    }
    all
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn collect(key: &str, value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == key => into.push(text.clone()),
                    _ => collect(key, value, into),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(key, item, into)),
        _ => {}
    }
}
