//! Commands against a running gateway, with the sandbox's parts on free ports.

use super::run::{Line, Running, Site, has_mode, wait_until};
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixListener,
};

/// A gateway in front of the sandbox's server.
pub(super) struct Gateway {
    pub(super) site: Site,
    _sandbox: Running,
    gateway: Running,
    pub(super) url: String,
    facilitator: String,
}

/// A key that everybody knows; its account has sandbox money.
pub(super) const WALLET: &str =
    "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";

pub(super) fn start(name: &str) -> Gateway {
    let site = Site::new(name);
    let ports = ["--lightning", "0", "--facilitator", "0", "--issuer", "0", "--server", "0"];
    let args: Vec<&str> = ["sandbox"].into_iter().chain(ports).collect();
    let (sandbox, line) = site.start(&args, Line::Out);
    let parts: Value = serde_json::from_str(&line).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    site.write("countersign.yaml", &config(port, &parts), 0o600);
    // A socket that a crash left behind.
    fs::create_dir(site.path("run")).unwrap();
    drop(UnixListener::bind(site.path("run/admin.sock")).unwrap());
    let (gateway, _) = site.start(&["serve"], Line::Err);
    wait_until("serving", || site.run(&["status"]).exit == 0);
    let url = format!("http://127.0.0.1:{port}/weather/mcp");
    site.write("token", &token(part(&parts, "issuer"), &url), 0o600);
    site.write("wallet", WALLET, 0o600);
    let facilitator = part(&parts, "facilitator").to_owned();
    Gateway { site, _sandbox: sandbox, gateway, url, facilitator }
}

/// One of the sandbox's addresses.
fn part<'a>(parts: &'a Value, name: &str) -> &'a str {
    parts[name].as_str().unwrap()
}

fn config(port: u16, parts: &Value) -> String {
    let (issuer, lightning) = (part(parts, "issuer"), part(parts, "lightning"));
    let (facilitator, server) = (part(parts, "facilitator"), part(parts, "server"));
    json!({
        "listen": format!("127.0.0.1:{port}"),
        "data_dir": "data",
        "admin_socket": "run/admin.sock",
        "sandbox": true,
        "issuers": [{ "issuer": issuer, "allow_private_network": true }],
        "assets": {
            "USDC": {
                "network": "eip155:84532", "decimals": 6, "name": "USDC", "version": "2",
                "address": "0x036CbD53842c5426634e7929541eC2318f3dCF7e", "rate": "1 USD",
            },
            "BTC": { "network": "lightning", "rate": "60000 USD" },
        },
        "rails": {
            "x402": {
                "pay_to": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
                "facilitator": { "sandbox": facilitator },
            },
            "l402": { "source": { "sandbox": lightning } },
        },
        "servers": { "weather": { "upstream": server, "tools": {
            "get_forecast": { "price": ["0.01 USDC", "3 sat"] },
            "delete_report": { "price": "free", "consent": "none" },
            "get_report": { "price": "0.01 USDC", "consent": "none", "flow": "upfront" },
            "get_slow": { "price": "free", "consent": "none", "sensitivity": 3 },
            "status": { "price": "free", "consent": "none" },
        } } },
        "budgets": [{
            "name": "person", "scope": { "delegator": "*" }, "limit": "1 USD", "window": "24h",
        }],
    })
    .to_string()
}

/// An access token of the sandbox's issuer.
fn token(issuer: &str, resource: &str) -> String {
    let form = format!(
        "grant_type=client_credentials&client_id=sandbox-agent&\
                        client_secret=sandbox-secret&resource={resource}"
    );
    let answer = post(issuer, "/token", "application/x-www-form-urlencoded", &form);
    answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

/// What one of the sandbox's parts answers, which is JSON.
fn post(part: &str, path: &str, content_type: &str, body: &str) -> Value {
    let host = part.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\
         content-type: {content_type}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let json = &answer[answer.find('{').unwrap()..=answer.rfind('}').unwrap()];
    serde_json::from_str(json).unwrap()
}

impl Gateway {
    fn call(&self, tool: &str, more: &[&str]) -> super::run::Ran {
        let args = ["call", &self.url, tool, r#"{"city":"Oslo"}"#, "--bearer", "file:token"];
        self.site.run(&[&args, more].concat())
    }

    /// The sandbox's issuer, as configured.
    fn issuer(&self) -> String {
        let config = fs::read_to_string(self.site.path("countersign.yaml")).unwrap();
        let config: Value = serde_json::from_str(&config).unwrap();
        part(&config["issuers"][0], "issuer").to_owned()
    }

    pub(super) fn create_grant(&self) -> Value {
        self.site.json(&[
            "grant",
            "create",
            "--issuer",
            &self.issuer(),
            "--subject",
            "sandbox-agent",
            "--agent",
            "sandbox-agent",
            "--server",
            "weather",
            "--tool",
            "get_forecast",
            "--intent",
            "read",
            "--per-call",
            "0.05 USD",
            "--window",
            "0.10 USD/24h",
            "--expires",
            "24h",
        ])
    }
}

#[test]
fn consent_payment_and_the_evidence_of_a_call() {
    let mut running = start("paid");
    let site = &running.site;
    assert!(has_mode(&site.path("run/admin.sock"), 0o600), "the stale socket was replaced");
    let quote = ["quote", &running.url, "get_forecast", "--bearer", "file:token"];
    let asked = site.run(&quote);
    assert_eq!(asked.exit, 12, "money is asked for when all else says yes");
    assert_eq!(asked.json()["listed"]["price"], json!(["0.01 USDC", "3 sat"]));
    assert_eq!(running.call("get_forecast", &[]).exit, 12, "no grant");
    let made = running.create_grant();
    let grant = made["grant"]["id"].as_str().unwrap();
    assert!(made["grant"]["approved_by"].as_str().unwrap().starts_with("os:"));
    site.write("copy", made["receipt"].as_str().unwrap(), 0o600);
    assert_eq!(site.json(&["receipt", "verify", "copy"])["grant"]["id"], grant);
    let offers = &site.json(&quote)["asked"]["offers"];
    assert_eq!(
        (&offers[0]["amount"], &offers[1]["amount"]),
        (&"0.01 USDC".into(), &"3 sat".into())
    );
    assert_eq!(running.call("get_forecast", &[]).exit, 10, "nothing to pay with");
    let cheap = running.call("get_forecast", &["--wallet", "file:wallet", "--max-price", "1 sat"]);
    assert_eq!(cheap.exit, 14, "above the cap");
    let paid =
        running.call("get_forecast", &["--wallet", "file:wallet", "--key", "data/keys/log.pub"]);
    assert_eq!(paid.exit, 0, "{} {}", paid.out, paid.err);
    assert_eq!(paid.json()["paid"]["amount"], "0.01 USDC");
    assert!(paid.err.contains("is verified"), "{}", paid.err);
    site.write("result", &paid.out, 0o600);
    let receipt = site.json(&["receipt", "verify", "result"]);
    let call = receipt["call"].as_str().unwrap();
    assert_eq!((&receipt["grant"], &receipt["state"]), (&grant.into(), &"captured".into()));
    let shown = site.json(&["calls", "show", call]);
    assert_eq!(shown["call"]["state"], "captured");
    assert_eq!(shown["log"].as_array().unwrap().len(), 6);
    let used = site.json(&["grant", "show", grant]);
    assert_eq!((&used["used"], &used["calls"]), (&"0.01 USD".into(), &1.into()));
    let balances = site.json(&["ledger", "balance"]);
    let earned = |b: &&Value| b["account"] == "payable:weather" && b["posted"] == "0.01 USDC";
    assert!(balances["items"].as_array().unwrap().iter().any(|b| earned(&b)), "{balances}");
    wait_until("publishing", || site.run(&["audit", "prove", call, "-o", "proof"]).exit == 0);
    assert_eq!(site.json(&["audit", "verify-proof", "proof"])["call"], call);
    let verified = site.json(&["audit", "verify", "--receipt", "result"]);
    assert_eq!(verified["attested"]["holds_receipt"], true);
    assert_eq!(site.json(&["grant", "revoke", grant])["status"], "revoked");
    assert_eq!(running.call("get_forecast", &["--wallet", "file:wallet"]).exit, 12);
    assert_eq!(site.run(&["grant", "resume", grant]).exit, 12, "revoked is for good");
    let records = site.json(&["status"])["records"].clone();
    assert_eq!(running.gateway.terminate(), Some(0));
    let verified = site.json(&["audit", "verify"]);
    assert_eq!(verified["attested"]["size"], records, "an orderly end publishes all");
}

#[test]
fn policy_s_no_and_a_doubt_about_money_have_their_own_codes() {
    let running = start("codes");
    let secret = running.call("get_slow", &[]);
    assert_eq!(secret.exit, 13, "{} {}", secret.out, secret.err);
    assert_eq!(secret.json()["problem"]["code"], "POL-001");
    let fault = json!({ "fault": "settle_pending", "times": 9 }).to_string();
    post(&running.facilitator, "/fault", "application/json", &fault);
    let doubt = running.call("get_report", &["--wallet", "file:wallet"]);
    assert_eq!(doubt.exit, 16, "{} {}", doubt.out, doubt.err);
    let told = doubt.json();
    assert_eq!(
        (&told["outcome"], &told["problem"]["charged"]),
        (&json!("unknown"), &json!("unknown"))
    );
    assert_eq!(told["paid"]["amount"], "0.01 USDC", "what is in doubt");
}

#[test]
fn a_person_confirms_one_very_call() {
    let running = start("approve");
    let site = &running.site;
    let asked = running.call("delete_report", &["--intent", "delete"]);
    assert_eq!(asked.exit, 12, "{}", asked.out);
    let pending = site.json(&["approvals", "list"]);
    let id = pending["items"][0]["id"].as_str().unwrap();
    assert_eq!(pending["items"].as_array().unwrap().len(), 1);
    assert_eq!(pending["items"][0]["tool"], "weather/delete_report");
    let approved = site.json(&["approvals", "approve", id, "--reason", "old"]);
    assert_eq!(approved["status"], "approved");
    assert!(approved["approver"].as_str().unwrap().starts_with("os:"));
    let again = site.run(&["approvals", "deny", id]);
    assert_eq!(again.exit, 2);
    assert!(again.error().0.ends_with(": the approval was answered before"), "{}", again.err);
    assert_eq!(running.call("delete_report", &["--intent", "delete"]).exit, 0);
    assert_eq!(running.call("delete_report", &["--intent", "delete"]).exit, 12, "used up");
    let next = site.json(&["approvals", "list"])["items"][0]["id"].as_str().unwrap().to_owned();
    site.json(&["approvals", "deny", &next, "--reason", "no"]);
    assert_eq!(running.call("delete_report", &["--intent", "delete"]).exit, 12, "denied");
}

#[test]
fn administrators_mistakes_are_named() {
    let running = start("mistakes");
    let (site, issuer) = (&running.site, running.issuer());
    let create = |change: &[(&str, &str)]| {
        let mut flags = vec![
            ("--issuer", &*issuer),
            ("--subject", "ada"),
            ("--agent", "planner"),
            ("--server", "weather"),
            ("--tool", "get_forecast"),
            ("--intent", "read"),
            ("--per-call", "0.05 USD"),
            ("--expires", "24h"),
        ];
        for (name, value) in change {
            flags.retain(|(flag, _)| flag != name);
            flags.push((name, value));
        }
        let mut args = vec!["grant", "create"];
        let flags: Vec<String> =
            flags.into_iter().map(|(flag, value)| format!("{flag}={value}")).collect();
        args.extend(flags.iter().map(String::as_str));
        site.run(&args)
    };
    assert_eq!(create(&[]).exit, 0);
    for (change, member) in [
        (("--issuer", "https://issuer.example"), "issuer"),
        (("--server", "wether"), "server"),
        (("--tool", "get_forcast"), "tools"),
        (("--per-call", "0.05"), "per_call"),
        (("--per-call", "5 EUR"), "per_call"),
        (("--per-call", "-1 USD"), "per_call"),
        (("--window", "1 USD"), "windows"),
        (("--window", "1 USD/0h"), "windows"),
        (("--expires", "31d"), "expires"),
        (("--expires", "soon"), "expires"),
        (("--subject", ""), "subject"),
    ] {
        let ran = create(&[change]);
        assert_eq!(ran.exit, 2, "{change:?}");
        assert!(ran.error().0.contains(&format!(": `{member}`: ")), "{}", ran.err);
    }
    let none = "call_00000000000000000000000000000000";
    assert_eq!(site.run(&["calls", "show", none]).exit, 2);
    assert_eq!(site.run(&["ledger", "resolve", none, "refund"]).exit, 2);
    assert_eq!(site.run(&["ledger", "refunded", none, "--reference", "x"]).exit, 2);
    assert_eq!(site.run(&["credential", "revoke", &"0".repeat(64)]).exit, 2);
    let budgets = site.json(&["budget", "show"]);
    assert_eq!(budgets["items"][0]["needs"], json!(["delegator"]));
    let budgets = site.json(&["budget", "show", "--delegator", "i|s"]);
    assert_eq!(budgets["items"][0]["remaining"], "1 USD");
    let second = site.run(&["serve"]);
    assert_eq!(second.exit, 18, "the store is in use: {}", second.err);
}
