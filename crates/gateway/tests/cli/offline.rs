//! Commands that need no running gateway.

use super::run::{Site, has_mode};
use expect_test::{Expect, expect};
use std::fs;

#[test]
fn from_nothing_to_a_configuration_that_means_something() {
    let site = Site::new("init");
    assert_eq!(site.json(&["init", "here"])["file"], "here/countersign.yaml");
    let again = site.run(&["init", "here"]);
    assert_eq!(again.exit, 2);
    assert_eq!(
        again.error(),
        (
            "`here/countersign.yaml` is there already".to_owned(),
            "remove it first, or name another directory".to_owned()
        )
    );
    let checked = site.json(&["check", "--config", "here/countersign.yaml"]);
    assert_eq!((&checked["ok"], checked["problems"].as_array().unwrap().len()), (&true.into(), 0));
    let means = checked["means"].as_array().unwrap();
    let forecast = |line: &str| line.starts_with("weather/get_forecast") && line.contains("0.01");
    assert!(means.iter().any(|line| forecast(line.as_str().unwrap())), "{checked}");
}

#[test]
fn every_problem_of_a_configuration_is_found_at_once() {
    let site = Site::new("check");
    site.write("bad.yaml", "listn: 127.0.0.1:1\ndata_dir: 7\n", 0o600);
    let ran = site.run(&["check", "--config", "bad.yaml"]);
    assert_eq!(ran.exit, 2);
    let checked = ran.json();
    assert_eq!(checked["ok"], false);
    let problems = checked["problems"].as_array().unwrap();
    assert!(problems.len() >= 2, "{checked}");
    assert!(problems[0]["suggestion"].as_str().unwrap().contains("listen"), "{checked}");
    assert_eq!(problems[0]["line"], 1);
    for args in [&["serve", "--config", "bad.yaml"][..], &["check", "--config", "none.yaml"]] {
        assert_eq!(site.run(args).exit, 2, "{args:?}");
    }
    let none = site.run(&["serve"]);
    assert_eq!((none.exit, none.error().1), (2, "write one with `countersign init`".to_owned()));
}

/// A treasury, and the rail whose payments it pays back.
const PAYS_BACK: &str = r#"
data_dir: ./data
treasuries:
  main: { wallet: "file:key", per_call: 0.05 USD, per_day: 1 USD }
assets:
  USDC:
    network: "eip155:84532"
    address: "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
    decimals: 6
    name: USDC
    version: "2"
    rate: 1 USD
rails:
  refund_from: main
  x402:
    pay_to: "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
    facilitator: { url: "https://facilitator.example.com" }
servers:
  weather:
    upstream: http://127.0.0.1:3001/mcp
    relay: { anonymous: true }
    tools:
      get_forecast: { price: 0.01 USDC, identity: anonymous }
"#;

#[test]
fn who_pays_back_is_a_treasury_that_is_there() {
    let site = Site::new("refund-from");
    site.write("key", &"11".repeat(32), 0o600);
    site.write("good.yaml", PAYS_BACK, 0o600);
    let checked = site.json(&["check", "--config", "good.yaml"]);
    assert_eq!(checked["problems"].as_array().unwrap().len(), 0, "{checked}");
    let means = checked["means"].as_array().unwrap();
    let said = "Treasury main pays back x402 payments for calls that did not run, to whoever paid \
                them; above 0.05 USD each, and where it pays nothing back, a person does.";
    assert!(means.iter().any(|line| line == said), "{checked}");
    let other = PAYS_BACK.replace("refund_from: main", "refund_from: mian");
    site.write("bad.yaml", &other, 0o600);
    let problems = site.run(&["check", "--config", "bad.yaml"]).json()["problems"].clone();
    assert_eq!(problems.as_array().unwrap().len(), 1, "{problems}");
    assert_eq!(problems[0]["path"], "rails.refund_from");
    assert_eq!(problems[0]["suggestion"], "did you mean `main`?");
}

#[test]
fn keys_are_made_once_and_private() {
    let site = Site::new("keys");
    site.json(&["init"]);
    let none = site.run(&["keys", "show"]);
    assert_eq!((none.exit, none.error().1.as_str()), (2, "make it with `countersign keys init`"));
    let made = site.json(&["keys", "init"]);
    assert_eq!(made, site.json(&["keys", "init"]), "made once");
    assert_eq!(made, site.json(&["keys", "show"]));
    assert!(made["key"].as_str().unwrap().starts_with(made["kid"].as_str().unwrap()));
    for name in ["log.key", "challenge.key", "pseudonym.key"] {
        let file = site.path("data/keys").join(name);
        assert!(has_mode(&file, 0o600), "{name}");
        let secret = fs::read_to_string(file).unwrap();
        assert!(!made.to_string().contains(secret.trim()), "{name} is shown");
    }
}

#[test]
fn the_schema_is_the_published_one() {
    let site = Site::new("schema");
    let published = include_str!("../../../../docs/config.schema.json");
    let published: serde_json::Value = serde_json::from_str(published).unwrap();
    assert_eq!(site.json(&["schema"]), published);
}

#[test]
fn refusals_are_explained() {
    let site = Site::new("refusals");
    let all = site.json(&["refusals"]);
    assert!(all.as_array().unwrap().len() > 80);
    let ran = site.run(&["refusals", "pay-003"]);
    expect![[r#"
        {
          "code": "PAY-003",
          "status": 402,
          "title": "the payment's signature is not valid",
          "retry": "after_action",
          "actor": "client",
          "next": "sign the payment again with the paying key",
          "page": "docs/refusals/PAY-003.md"
        }
    "#]]
    .assert_eq(&ran.out);
    assert_eq!(site.run(&["refusals", "PAY-999"]).exit, 2);
}

/// What is said on the standard error, with its exit code.
fn said(args: &[&str], expected: &Expect) {
    let site = Site::new(&format!("said-{}", args.join("-").replace(['/', ':'], "_")));
    let ran = site.run(args);
    assert_eq!(ran.out, "", "{args:?}");
    expected.assert_eq(&format!("{}\n{}", ran.exit, ran.err));
}

#[test]
fn what_cannot_be_understood_is_a_usage_error() {
    said(
        &["--jsno", "check"],
        &expect![[r#"
            2
            {"error":{"code":"USAGE","message":"unexpected argument '--jsno' found; tip: a similar argument exists: '--json'","next":"usage: countersign --json <COMMAND>"},"exit":2}
        "#]],
    );
    said(
        &["grant", "show", "call_00"],
        &expect![[r#"
            2
            {"error":{"code":"USAGE","message":"invalid value 'call_00' for '<ID>': expected `grant_` and 32 hex characters","next":"see --help"},"exit":2}
        "#]],
    );
    said(
        &["call", "http://127.0.0.1:9/mcp", "t", "[1]"],
        &expect![[r#"
            2
            {"error":{"code":"USAGE","message":"the arguments are not a JSON object with each member once","next":"write them as '{\"city\":\"Oslo\"}'"},"exit":2}
        "#]],
    );
    said(
        &["call", "http://192.0.2.1/mcp", "t"],
        &expect![[r#"
            2
            {"error":{"code":"USAGE","message":"plain http to another machine is refused: use https","next":"use https, or allow it with --allow-plain-http"},"exit":2}
        "#]],
    );
    said(
        &["call", "http://127.0.0.1:9/mcp", "t", "--wallet", "none.json"],
        &expect![[r#"
            2
            {"error":{"code":"USAGE","message":"wallet: the file cannot be read: entity not found","next":"see --help"},"exit":2}
        "#]],
    );
}

#[test]
fn what_is_not_there_is_said_with_what_to_do() {
    said(
        &["audit", "verify", "--log", "log", "--key", "key"],
        &expect![[r#"
            2
            {"error":{"code":"USAGE","message":"there is no log at `log`","next":"name its directory with --log, or run the gateway first"},"exit":2}
        "#]],
    );
    said(
        &["call", "http://127.0.0.1:9/mcp", "t"],
        &expect![[r#"
            15
            {"error":{"code":"UPSTREAM","message":"the server cannot be reached","next":"check the address, and that an MCP server answers there"},"exit":15}
        "#]],
    );
    said(
        &["approvals", "list", "--socket", "admin.sock"],
        &expect![[r#"
            15
            {"error":{"code":"UPSTREAM","message":"no gateway answers at `admin.sock`: No such file or directory (os error 2)","next":"start it with `countersign serve`, as the same user"},"exit":15}
        "#]],
    );
}

#[test]
fn a_log_without_a_checkpoint_is_not_sound() {
    let site = Site::new("empty-log");
    site.json(&["init"]);
    let key = site.json(&["keys", "init"])["key"].as_str().unwrap().to_owned();
    fs::create_dir(site.path("log")).unwrap();
    let ran = site.run(&["audit", "verify", "--log", "log", "--key", &key]);
    assert_eq!(ran.exit, 1);
    assert_eq!(ran.json()["findings"][0]["finding"], "missing_checkpoint");
    fs::write(site.path("log/checkpoint"), "nonsense").unwrap();
    let ran = site.run(&["audit", "verify", "--log", "log", "--key", "data/keys/log.pub"]);
    assert_eq!(ran.exit, 1);
    assert_eq!(ran.json()["findings"][0]["finding"], "bad_checkpoint");
    let prove = ["audit", "prove", "call_00000000000000000000000000000000", "--log", "log"];
    assert_eq!(site.run(&prove).exit, 1);
    let bad = site.run(&["audit", "verify", "--log", "log", "--key", "nothing"]);
    assert_eq!(bad.exit, 2);
    site.write("receipt", "a.b.c", 0o600);
    assert_eq!(site.run(&["receipt", "verify", "receipt", "--key", &key]).exit, 1);
}

#[test]
fn a_doctor_says_what_to_do_about_each_thing() {
    let site = Site::new("doctor");
    let ran = site.run(&["doctor"]);
    assert_eq!((ran.exit, &ran.json()[0]["health"]), (1, &"fail".into()));
    site.json(&["init"]);
    let ran = site.run(&["doctor"]);
    let lines = ran.json();
    let lines = lines.as_array().unwrap();
    let fails = lines.iter().any(|line| line["health"] == "fail");
    assert_eq!(ran.exit, i32::from(fails));
    for line in lines {
        assert!(line["health"] == "ok" || line["next"].is_string(), "{line}");
    }
    fs::create_dir(site.path("data")).unwrap();
    site.write(
        "data/countersign.db",
        &"no database, and longer than the header of one".repeat(9),
        0o600,
    );
    let ran = site.run(&["doctor"]);
    let lines = ran.json();
    let database = lines.as_array().unwrap().iter().find(|line| line["what"] == "database");
    let found = database.unwrap()["found"].as_str().unwrap();
    assert!(found.starts_with("DATA-UNUSABLE"), "{found}");
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    use std::process::Stdio;
    let site = Site::new("pipe");
    let mut child = site.command(&["schema"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
