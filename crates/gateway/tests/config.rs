//! Configuration files: what is refused and how it is said, what loads and what it means.
//!
//! Golden texts, and `docs/config.schema.json`, are renewed with `UPDATE_EXPECT=1 cargo test`.

use countersign_core::terms::{ConsentRule, Price};
use countersign_gateway::config::{
    Config, ConfigErrors, Facilitator, Format, Surroundings, Warning, explain, init_template,
    load_text, load_with, schema,
};
use expect_test::{Expect, expect, expect_file};
use proptest::prelude::*;
use std::path::Path;

type Loaded = Result<(Config, Vec<Warning>), ConfigErrors>;

/// A valid file in YAML, to vary.
const GOOD: &str = r#"
issuers:
  - issuer: https://idp.example.com
assets:
  USDC:
    network: "eip155:84532"
    address: "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
    decimals: 6
    name: USDC
    version: "2"
    rate: 1 USD
rails:
  x402:
    pay_to: "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
    facilitator: { url: "https://facilitator.example.com" }
servers:
  weather:
    upstream: http://127.0.0.1:3001/mcp
    tools:
      get_forecast: { price: 0.01 USDC }
"#;

/// The JSON template, as it is published.
const TEMPLATE: &str = r#"{"mcp_server": {"transport": "http_streamable",
  "auth": {
    "identity": {"provider": "auth0", "tenant": "your-tenant.auth0.com", "audience": "https://api.mcp-server.internal", "obo_enabled": true},
    "payment": {"protocol": "l402", "gateway": "https://payments.mcp-server.internal", "macaroon_ttl_seconds": 300,
                "pow_enabled": true, "pow_difficulty": 20, "pricing": {"image_describe": {"sats": 3}, "data_query": {"sats": 1}}}},
  "tools": [{"name": "image_describe", "requires_payment": true, "requires_identity": true},
            {"name": "status", "requires_payment": false, "requires_identity": false}]}}"#;

/// A file of the right shape that means nothing good.
const BAD: &str = r#"
listen: 0.0.0.0:8402
sandbox: true
tenant: anonymous
allowed_origins: ["*", "https://a.example.com/", "https://a.example.com"]
assets:
  USDC: { network: "eip155:84532", address: "0x036CbD53842c5426634e7929541eC2318f3dCF7f", decimals: 18, name: USDC, version: "2", rate: 1 USD }
  EURC: { network: "eip155:84532", address: "0x036CbD53842c5426634e7929541eC2318f3dCF7e", decimals: 6, name: USDC, version: "2", rate: 1 USD }
  BTC: { network: "eip155:1", rate: 0 USD }
rails:
  l402: { source: { sandbox: "http://10.0.0.1:1" }, credential_ttl: 1s }
servers:
  weather:
    upstream: http://user:hunter2@127.0.0.1:3001/mcp
    headers: { authorization: "env:NOPE", mcp-name: "env:TOKEN", x: "file:nope", y: "env:EMPTY" }
    relay: { anonymous: true, scopes: [a] }
    tools:
      a: { price: 0.01 USDC, identity: anonymous, consent: required, scopes: ["a b"] }
      b: { price: 1.5 EURC, flow: authorization }
      c: { price: ["0.0000001 EURC", "2 FOO", 0 EURC, "1e3 EURC", "1 USD"] }
      d: { price: [ {price: free}, {tenant: x, price: "1 EURC"} ] }
      e: { price: [] }
  Other_One: { upstream: "http://127.0.0.1:8402/mcp?api_key=hunter2" }
budgets:
  - { name: X y, limit: 0 USD, window: lifetime, scope: { tool: weather/aa, delegator: bob } }
policy: { dir: nope }
audit: { origin: "a b" }
"#;

fn load(text: &str, format: Format) -> Loaded {
    let surroundings = Surroundings::default()
        .with("TOKEN", "hunter2")
        .with("EMPTY", "")
        .with("LINES", "one\ntwo")
        .with("KEY", &"1".repeat(64));
    load_text(text, format, Path::new("/etc/countersign"), &surroundings)
}

/// What is said of a file that is refused; `ok` and the warnings of one that is not.
fn said(text: &str, format: Format) -> String {
    match load(text, format) {
        Ok((_, warnings)) => warnings.iter().fold("ok".into(), |all, w| format!("{all}\n  {w}")),
        Err(errors) => errors.to_string(),
    }
}

fn golden(text: &str, format: Format, expected: &Expect) {
    expected.assert_eq(&said(text, format));
}

/// [`GOOD`] with something replaced; the replaced text must be there.
fn varied(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    GOOD.replace(from, to)
}

#[test]
fn shapes_are_checked_all_at_once() {
    let text = r#"
lisen: 1.2.3.4:99
issuers:
  - issuer: https://a.example.com
  - isuer: https://b.example.com
assets:
  USDC: { network: "eip155:84532", decimals: six, version: 2, rate: 1 EUR }
rails:
  x402:
    facilitator: { builtin: { rpc: "https://x", key: "0xdeadbeef" } }
    max_timeout: 5 minutes
  l402: { source: { sandbx: "http://127.0.0.1:9740" } }
servers:
  weather:
    upstream: http://127.0.0.1:3001/mcp
    upsteam: http://127.0.0.1:3001/mcp
    headers: { authorization: "Bearer hunter2" }
    tools:
      a: { price: 0.01 USDC, identity: anonimous }
      a: { price: free }
      b: { price: 1 }
      c: { prise: "0.01 USDC" }
      d: { price: free, deadline: 1y, uses: 0, sensitivity: 9, intent: reed }
      e:
      f: {}
    default: freee
budgets:
  - { name: x, limit: "10", window: forever }
limits: { body: 1 MB, colour: red }
"#;
    golden(
        text,
        Format::Yaml,
        &expect![[r#"
            configuration: 25 problems
              line 2: lisen: unknown member `lisen`; did you mean `listen`?
              line 5: issuers[1].isuer: unknown member `isuer`; did you mean `issuer`?
              line 7: assets.USDC.decimals: expected a whole number, found text
              line 7: assets.USDC.rate: `1 EUR` is not an amount in USD; write it as `10 USD` or `0.50 USD`
              line 7: assets.USDC.version: expected text, found a number; put it in quotes
              line 9: rails.x402: `pay_to` is missing; it is: The address that is paid
              line 10: rails.x402.facilitator.builtin.key: a secret must not stand in this file; refer to it as `env:NAME` or `file:PATH`
              line 11: rails.x402.max_timeout: `5 minutes` is not a duration; write it as `500ms`, `30s`, `15m`, `24h` or `7d`
              line 12: rails.l402.source: expected one of `sandbox`, `ldk`, `lnd`, `phoenixd`, `cln`; did you mean `sandbox`?
              line 16: servers.weather.upsteam: unknown member `upsteam`; did you mean `upstream`?
              line 17: servers.weather.headers.authorization: a secret must not stand in this file; refer to it as `env:NAME` or `file:PATH`
              line 20: servers.weather.tools.a: this member occurs twice; keep one of them
              line 21: servers.weather.tools.b.price: expected text or a list, found a number; put it in quotes
              line 22: servers.weather.tools.c.prise: unknown member `prise`; did you mean `price`?
              line 23: servers.weather.tools.d.deadline: `1y` is not a duration; write it as `500ms`, `30s`, `15m`, `24h` or `7d`
              line 23: servers.weather.tools.d.intent: `reed` is none of `read`, `search`, `summarize`, `classify`, `notify`, `export`, `write`, `spend`, `execute`, `delete`, `admin`; did you mean `read`?
              line 23: servers.weather.tools.d.sensitivity: 9 is more than 3
              line 23: servers.weather.tools.d.uses: 0 is less than 1
              line 24: servers.weather.tools.e: expected a mapping, found nothing
              line 25: servers.weather.tools.f: `price` is missing; it is: `free`, an amount (`0.01 USDC`), `work`, alternatives (`["0.01 USDC", "3 sat", "work"]`), `upstream` (what the server asks; the treasury pays it), or a list of rules of which the first that fits the caller applies
              line 26: servers.weather.default: `freee` is none of `refuse`, `free`; did you mean `free`?
              line 28: budgets[0].limit: `10` is not an amount in USD; write it as `10 USD` or `0.50 USD`
              line 28: budgets[0].window: `forever` is not a duration; write it as `500ms`, `30s`, `15m`, `24h` or `7d`
              line 29: limits.body: `1 MB` is not a size; write it as `512 B`, `64 KiB` or `1 MiB`
              line 29: limits.colour: unknown member `colour`; known here: `approval_ttl`, `asks_per_agent_per_hour`, `body`, `body_timeout`, `calls`, `connections`, `connections_per_address`, `depth`, `failed_payments_per_address_per_minute`, `failed_payments_per_principal_per_minute`, `header_timeout`, `headers`, `invoices_per_address_per_minute`, `invoices_per_principal_per_minute`, `open_quotes_per_principal`, `pending_approvals_per_principal`, `quote_ttl`, `result`"#]],
    );
}

#[test]
fn meanings_are_checked_all_at_once() {
    golden(
        BAD,
        Format::Yaml,
        &expect![[r#"
            configuration: 38 problems
              line 2: listen: the sandbox must stay on loopback; listen on `127.0.0.1`, or use real parts and remove `sandbox`
              line 4: tenant: `anonymous` is the tenant of callers without a token; choose another name
              line 5: allowed_origins[0]: `*` is not an origin; write each as `https://app.example.com`: scheme, host and port, no path
              line 5: allowed_origins[1]: `https://a.example.com/` is not an origin; write each as `https://app.example.com`: scheme, host and port, no path
              line 7: assets.USDC.address: this is not a token's address: its checksum (EIP-55) does not fit: a character is wrong; copy it again, in quotes
              line 7: assets.USDC.decimals: amounts in `USDC` are read with 6 places; give a token with other places a code of its own, like `USDC-BSC`
              line 9: assets.BTC.rate: a rate of zero would make budgets count nothing; write what one whole unit is worth
              line 11: rails.l402.credential_ttl: `1s` is out of bounds; choose between 30s and 1d
              line 11: rails.l402.source.sandbox: the sandbox must stay on loopback; write `http://127.0.0.1:9740`
              line 14: servers.weather.upstream: a secret must not stand in this file; remove `user:password@`; secrets are given by reference
              line 15: servers.weather.headers.authorization: the environment variable `NOPE` is not set; a secret must be there when the gateway starts
              line 15: servers.weather.headers.mcp-name: `mcp-name` is not a header to set; use another header, for example `authorization`
              line 15: servers.weather.headers.x: `nope` cannot be read: No such file or directory (os error 2); a secret must be there when the gateway starts
              line 15: servers.weather.headers.y: the secret is empty; put the secret there
              line 16: servers.weather.relay: callers without a token have no scopes; remove `scopes`, or `anonymous`
              line 18: servers.weather.tools.a: callers without a token have no scopes; write `identity: required`, or remove `scopes`
              line 18: servers.weather.tools.a: nobody can have agreed for an anonymous caller; write `identity: required`, or `consent: none`
              line 18: servers.weather.tools.a.scopes[0]: `a b` is not a scope; write one scope, without blanks
              line 19: servers.weather.tools.b.price: no rail takes EURC; add `rails.x402`, or price it in another asset
              line 20: servers.weather.tools.c.price[0]: `0.0000001 EURC` is not a price: the unit has 6 decimal places; write it as `0.01 USDC` or `3 sat`, or `free`
              line 20: servers.weather.tools.c.price[1]: no asset `FOO` is configured; add `FOO` to `assets`
              line 20: servers.weather.tools.c.price[2]: a price of zero; write `free` if it is free
              line 20: servers.weather.tools.c.price[3]: `1e3 EURC` is not a price: expected a decimal number, a space and a unit; write it as `0.01 USDC` or `3 sat`, or `free`
              line 20: servers.weather.tools.c.price[4]: no asset `USD` is configured; USD is the unit of limits; price it in an asset, as in `0.01 USDC`
              line 21: servers.weather.tools.d.price[1]: an earlier rule applies to everybody; move the rule for everybody to the end
              line 21: servers.weather.tools.d.price[1].price: no rail takes EURC; add `rails.x402`, or price it in another asset
              line 22: servers.weather.tools.e.price: the list of prices is empty; write `free` if it is free
              line 23: servers.Other_One: `Other_One` is not a name; use `a` to `z`, `0` to `9` and `-`, at most 63 characters
              line 23: servers.Other_One: callers need a token, and nobody may issue one; add an issuer to `issuers`, or write `identity: anonymous` on each tool and `relay: { anonymous: true }`
              line 23: servers.Other_One.upstream: the URL's query seems to hold a secret; send it in `headers` by reference: `authorization: Bearer env:NAME`
              line 23: servers.Other_One.upstream: this is the gateway itself; write the MCP server's own port
              line 25: budgets[0].limit: a budget of zero refuses everything; raise it, or remove the tools' prices
              line 25: budgets[0].name: `X y` is not a name; use `a` to `z`, `0` to `9` and `-`, at most 63 characters
              line 25: budgets[0].scope.delegator: expected an issuer, `|` and a subject, as in `https://idp.example.com|alice`; write one, or `*` for each by itself
              line 25: budgets[0].scope.tool: no tool `weather/aa` is configured; did you mean `weather/a`?
              line 26: policy.dir: `nope` is not a directory; give the bundle's directory, or leave `policy` out for the built-in one
              line 27: audit.origin: the log's name has blanks, `+` or is empty; write it like a host and a path: `gateway.example.com/log`
              public_url: `public_url` is missing, and `listen` does not say how to get here; write it as `https://gateway.example.com`"#]],
    );
}

#[test]
fn single_mistakes() {
    let cases = [
        varied("price: 0.01 USDC", "price: 0.01 USCD"),
        varied("price: 0.01 USDC", "price: 3 sat"),
        varied("price: 0.01 USDC", "price: [\"0.01 USDC\", \"0.02 USDC\"]"),
        varied("price: 0.01 USDC", "price: 340282366920938463463374607431768211455 USDC"),
        varied("https://idp.example.com", "https://idp.example.com\n    audience: x"),
        varied(
            "https://idp.example.com",
            "https://idp.example.com\n    tenant: a\n    tenant_claim: b",
        ),
        varied(
            "https://idp.example.com",
            "https://idp.example.com\n    tenant_claim: a//b\n    roles_claim: /a//b",
        ),
        varied(
            "pay_to: \"0x209693Bc6afc0C5328bA36FaF03C514EF312287C\"",
            "pay_to: 0x036CbD53842c5426634e7929541eC2318f3dCF7e",
        ),
        varied("http://127.0.0.1:3001", "http://localhost:8402"),
        varied("https://idp", "http://idp"),
        varied("https://idp.example.com", "http://127.0.0.1:9000"),
        varied("https://facilitator", "http://facilitator"),
        varied(
            "{ url: \"https://facilitator.example.com\" }",
            "{ sandbox: \"http://127.0.0.1:9740\" }",
        ),
        varied(
            "{ url: \"https://facilitator.example.com\" }",
            "{ builtin: { rpc: \"https://x.example\", key: \"env:TOKEN\" } }",
        ),
        varied("issuers:", "listen: 0.0.0.0:8402\nissuers:"),
        varied("weather:", "We_ather:"),
        varied("issuers:\n  - issuer: https://idp.example.com\n", ""),
    ];
    let all: Vec<String> = cases.iter().map(|text| said(text, Format::Yaml)).collect();
    expect![[r#"
        configuration: 1 problem
          line 20: servers.weather.tools.get_forecast.price: no asset `USCD` is configured; did you mean `USDC`?
        configuration: 1 problem
          line 20: servers.weather.tools.get_forecast.price: no asset `sat` is configured; add `BTC: { network: lightning, rate: "60000 USD" }` to `assets`
        configuration: 1 problem
          line 20: servers.weather.tools.get_forecast.price[1]: there is a price in USDC already; keep one price in each asset
        configuration: 1 problem
          line 20: servers.weather.tools.get_forecast.price: `340282366920938463463374607431768211455 USDC` is not a price: the amount is too large; write it as `0.01 USDC` or `3 sat`, or `free`
        configuration: 1 problem
          line 4: issuers[0].audience: with an audience of its own, any token of this issuer would do; add `clients` with the ids of those whose tokens are accepted
        configuration: 1 problem
          line 3: issuers[0]: `tenant` and `tenant_claim` exclude each other; keep one of them
        configuration: 1 problem
          line 5: issuers[0].roles_claim: this names no claim; write a member's name, or a path such as `/realm_access/roles`
        configuration: 1 problem
          line 14: rails.x402.pay_to: this is the token's contract: money is lost; write your own address
        configuration: 1 problem
          line 18: servers.weather.upstream: this is the gateway itself; write the MCP server's own port
        configuration: 1 problem
          line 3: issuers[0].issuer: issuers are asked over https and at public addresses only; write `https://`, or add `allow_private_network: true`
        configuration: 1 problem
          line 3: issuers[0].issuer: issuers are asked over https and at public addresses only; write `https://`, or add `allow_private_network: true`
        configuration: 1 problem
          line 15: rails.x402.facilitator.url: plain http is accepted on loopback only; write `https://`
        configuration: 1 problem
          line 15: rails.x402.facilitator.sandbox: this is a sandbox part, it moves play money; add `sandbox: true`, on a machine where no real money is meant
        configuration: 1 problem
          line 15: rails.x402.facilitator.builtin.key: the secret is not a 32-byte key in hex; put 64 hex characters there
        configuration: 1 problem
          public_url: `public_url` is missing, and `listen` does not say how to get here; write it as `https://gateway.example.com`
        configuration: 1 problem
          line 17: servers.We_ather: `We_ather` is not a name; use `a` to `z`, `0` to `9` and `-`, at most 63 characters
        configuration: 1 problem
          line 15: servers.weather: callers need a token, and nobody may issue one; add an issuer to `issuers`, or write `identity: anonymous` on each tool and `relay: { anonymous: true }`"#]].assert_eq(&all.join("\n"));
}

const REMOTE: &str = "{ url: \"https://facilitator.example.com\" }";

/// [`GOOD`] with a member beside its facilitator, and maybe another facilitator.
fn beside_facilitator(facilitator: &str, member: &str) -> String {
    varied(REMOTE, &format!("{facilitator}\n    {member}"))
}

#[test]
fn a_facilitators_word_is_checked_by_one_node() {
    let rpc = "rpc: https://node.example.com";
    let two = beside_facilitator(REMOTE, rpc).replace(
        "assets:\n",
        "assets:\n  EURC: { network: \"eip155:1\", \
         address: \"0x1aBaEA1f7C830bD89Acc67eC4af516284b1bC33c\", decimals: 6, name: EURC, \
         version: \"2\", rate: 1 USD }\n",
    );
    let cases = [
        beside_facilitator(REMOTE, "rpc: http://node.example.com"),
        beside_facilitator(REMOTE, "rpc: node"),
        beside_facilitator("{ sandbox: \"http://127.0.0.1:9740\" }", rpc)
            .replace("issuers:", "sandbox: true\nissuers:"),
        beside_facilitator("{ builtin: { rpc: \"https://x.example\", key: \"env:KEY\" } }", rpc),
        two,
    ];
    let all: Vec<String> = cases.iter().map(|text| said(text, Format::Yaml)).collect();
    expect![[r#"
        configuration: 1 problem
          line 16: rails.x402.rpc: plain http is accepted on loopback only; write `https://`
        configuration: 1 problem
          line 16: rails.x402.rpc: `node` is not an http or https URL; write it as `https://host.example.com/path`
        configuration: 1 problem
          line 17: rails.x402.rpc: this facilitator has no word to check; remove it: it is for a facilitator's `url`
        configuration: 1 problem
          line 16: rails.x402.rpc: this facilitator has no word to check; remove it: it is for a facilitator's `url`
        configuration: 1 problem
          line 17: rails.x402.rpc: one node cannot speak for several networks; keep the tokens of one network in `assets`"#]].assert_eq(&all.join("\n"));
    let (config, _) = load(&beside_facilitator(REMOTE, rpc), Format::Yaml).unwrap();
    let Some(Facilitator::Remote { rpc: Some(node), .. }) =
        config.rails.x402.as_ref().map(|x402| &x402.facilitator)
    else {
        panic!("{:?}", config.rails.x402);
    };
    assert_eq!(node, "https://node.example.com/");
    assert!(explain(&config).concat().contains("https://node.example.com/ must show it"));
}

#[test]
fn a_facilitators_authorization_is_a_reference_and_never_shown() {
    let cases = [
        beside_facilitator(REMOTE, "authorization: hunter2"),
        beside_facilitator(REMOTE, "authorization: Bearer hunter2"),
        beside_facilitator(REMOTE, "authorization: Bearer env:NOPE"),
        beside_facilitator(REMOTE, "authorization: env:EMPTY"),
        beside_facilitator(REMOTE, "authorization: env:LINES"),
        beside_facilitator("{ sandbox: \"http://127.0.0.1:9740\" }", "authorization: env:TOKEN")
            .replace("issuers:", "sandbox: true\nissuers:"),
    ];
    let all: Vec<String> = cases.iter().map(|text| said(text, Format::Yaml)).collect();
    expect![[r#"
        configuration: 1 problem
          line 16: rails.x402.authorization: a secret must not stand in this file; refer to it as `env:NAME` or `file:PATH`
        configuration: 1 problem
          line 16: rails.x402.authorization: a secret must not stand in this file; refer to it as `env:NAME` or `file:PATH`
        configuration: 1 problem
          line 16: rails.x402.authorization: the environment variable `NOPE` is not set; a secret must be there when the gateway starts
        configuration: 1 problem
          line 16: rails.x402.authorization: the secret is empty; put the secret there
        configuration: 1 problem
          line 16: rails.x402.authorization: the secret cannot be a header's value; it must be one line of printable ASCII
        configuration: 1 problem
          line 17: rails.x402.authorization: nobody is shown this; remove it: it is for a facilitator's `url`"#]].assert_eq(&all.join("\n"));
    let text = beside_facilitator(REMOTE, "authorization: Bearer env:TOKEN");
    let (config, _) = load(&text, Format::Yaml).unwrap();
    let Some(Facilitator::Remote { authorization: Some(value), .. }) =
        config.rails.x402.as_ref().map(|x402| &x402.facilitator)
    else {
        panic!("no authorization");
    };
    assert_eq!(value, "Bearer hunter2");
    assert!(!format!("{config:?}").contains("hunter2"));
    assert!(!explain(&config).concat().contains("hunter2"));
}

#[test]
fn mistakes_about_consent() {
    let cases = [
        varied("issuers:", "consent: { push: [{ webhook: phones }] }\nissuers:"),
        varied("price: 0.01 USDC", "price: 0.01 USDC, identity: anonymous, payer: linked"),
        varied(
            "https://idp.example.com",
            "https://idp.example.com\n    consent: { per_call: 1 USD }",
        ),
    ];
    let all: Vec<String> = cases.iter().map(|text| said(text, Format::Yaml)).collect();
    expect![[r#"
        configuration: 1 problem
          line 2: consent.push[0].webhook: no webhook of this name is configured; add it to `webhooks`
        configuration: 1 problem
          line 20: servers.weather.tools.get_forecast.payer: nobody is known whose wallet it could be; remove `payer`, or price the tool in x402 assets alone, for callers with a token
        configuration: 1 problem
          line 4: issuers[0].consent: `total` is missing; it is: The most all calls of one consent may cost"#]].assert_eq(&all.join("\n"));
}

#[test]
fn broken_files() {
    let deep = "[".repeat(100_000);
    let bomb: String = (1..40).fold("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".into(), |all, n| {
        let alias = format!("*a{}, ", n - 1).repeat(10);
        format!("{all}a{n}: &a{n} [{alias}]\n")
    });
    let wide = format!("servers: [{}]", "1,".repeat(300_000));
    let huge = " ".repeat((1 << 20) + 1);
    let cases: [(&str, Format); 17] = [
        ("", Format::Yaml),
        ("# nothing\n", Format::Toml),
        ("[]", Format::Json),
        ("{\"listen\": ", Format::Json),
        ("{} {}", Format::Json),
        ("{\"listen\":\"a\",\n\"listen\":\"b\"}", Format::Json),
        ("listen = 'a'\nlisten = 'b'", Format::Toml),
        ("listen = 'hunter2", Format::Toml),
        ("a: [b", Format::Yaml),
        ("a: *nowhere", Format::Yaml),
        ("a: !secret hunter2", Format::Yaml),
        ("---\na: 1\n---\nb: 2", Format::Yaml),
        (&deep, Format::Yaml),
        (&deep, Format::Json),
        (&bomb, Format::Yaml),
        (&wide, Format::Yaml),
        (&huge, Format::Yaml),
    ];
    let all: Vec<String> = cases.iter().map(|(text, format)| said(text, *format)).collect();
    expect![[r#"
        configuration: 1 problem
          the file is empty; start from the output of `countersign init`
        configuration: 1 problem
          servers: no server is configured; add one: `servers: { weather: { upstream: "http://127.0.0.1:3001/mcp" } }`
        configuration: 1 problem
          expected a mapping, found a list
        configuration: 1 problem
          line 1: not valid JSON: EOF while parsing a value
        configuration: 1 problem
          line 1: not valid JSON: trailing characters
        configuration: 3 problems
          line 1: listen: `b` is not an IP address and a port; write it as `127.0.0.1:8402`
          line 2: listen: this member occurs twice; keep one of them
          servers: no server is configured; add one: `servers: { weather: { upstream: "http://127.0.0.1:3001/mcp" } }`
        configuration: 1 problem
          line 2: not valid TOML: duplicate key
        configuration: 1 problem
          line 1: not valid TOML: invalid literal string, expected `'`
        configuration: 1 problem
          line 2: not valid YAML: did not find expected ',' or ']'
        configuration: 1 problem
          line 1: not valid YAML: unknown anchor
        configuration: 1 problem
          line 1: not valid YAML: a: invalid type: enum, expected text, a number, true, false, a list or a mapping
        configuration: 1 problem
          not valid YAML: deserializing from YAML containing more than one document is not supported
        configuration: 1 problem
          line 1: not valid YAML: recursion limit exceeded
        configuration: 1 problem
          line 1: not valid JSON: recursion limit exceeded
        configuration: 1 problem
          line 1: not valid YAML: a5[0][6][8][8][8]: the file has too many values
        configuration: 1 problem
          line 1: not valid YAML: servers: the file has too many values
        configuration: 1 problem
          the file is larger than 1 MiB"#]].assert_eq(&all.join("\n"));
}

#[test]
fn no_finding_shows_a_secret() {
    let places = [
        varied("upstream: http://", "headers: { authorization: hunter2 }\n    upstream: http://"),
        varied(
            "upstream: http://",
            "headers: { authorization: Bearer hunter2 }\n    upstream: http://",
        ),
        varied("upstream: http://", "upstream: ht tp://a:hunter2@"),
        varied("upstream: http://", "upstream: http://a:hunter2@"),
        varied("127.0.0.1:3001/mcp", "127.0.0.1:3001/mcp?token=hunter2"),
        varied(
            "{ url: \"https://facilitator.example.com\" }",
            "{ builtin: { rpc: \"https://x\", key: hunter2 } }",
        ),
        varied(
            "{ url: \"https://facilitator.example.com\" }",
            "{ builtin: { rpc: \"https://x\", key: \"env:TOKEN\" } }",
        ),
        varied(
            "{ url: \"https://facilitator.example.com\" }",
            "{ builtin: { rpc: \"https://x\", kee: hunter2 } }",
        ),
        varied("{ url: \"https://facilitator.example.com\" }", "hunter2"),
    ];
    for text in places {
        let said = said(&text, Format::Yaml);
        assert!(!said.contains("hunter2") && !said.starts_with("ok"), "{said}");
    }
    let good =
        varied("upstream:", "headers: { authorization: \"Bearer env:TOKEN\" }\n    upstream:");
    let (config, _) = load(&good, Format::Yaml).unwrap();
    let headers = &config.servers["weather"].headers;
    assert_eq!(headers["authorization"], "Bearer hunter2");
    assert!(!format!("{config:?}").contains("hunter2"));
    assert!(!explain(&config).concat().contains("hunter2"));
}

#[test]
fn what_is_left_out_is_strict() {
    use countersign_core::terms::{DoubtRule, Flow, IdentityRule};
    let (config, warnings) = load(GOOD, Format::Yaml).unwrap();
    assert_eq!(warnings, []);
    assert!(config.listen.ip().is_loopback() && !config.sandbox);
    let server = &config.servers["weather"];
    assert!(!server.relay.anonymous && server.terms("other").is_none());
    assert_eq!(&*server.resource, "http://127.0.0.1:8402/weather/mcp");
    let terms = server.terms("get_forecast").unwrap();
    assert_eq!(terms.identity, IdentityRule::Required);
    assert_eq!(terms.consent, ConsentRule::Required);
    assert_eq!(terms.doubt, DoubtRule::Refund);
    assert_eq!(terms.flow, Flow::Upfront);
    assert!(!terms.idempotent && !config.issuers[0].allow_private_network);
}

/// RFC 7519 §4.1.1: a name without a scheme is one, too; nobody can find its keys by it.
#[test]
fn an_issuer_without_a_scheme_says_where_its_keys_are() {
    let issuer = "idp.example.com/project-1\n    jwks_uri: https://idp.example.com/jwks";
    let (config, _) = load(&varied("https://idp.example.com", issuer), Format::Yaml).unwrap();
    assert_eq!(&*config.issuers[0].issuer, "idp.example.com/project-1");
    let without = varied("https://idp.example.com", "idp.example.com/project-1");
    expect![[r#"
        configuration: 1 problem
          line 3: issuers[0].issuer: `idp.example.com/project-1` is no URL at which its keys could be found; write it as `https://host.example.com/path`; or, if this is exactly the token's `iss`, add `jwks_uri`"#]].assert_eq(&said(&without, Format::Yaml));
}

#[test]
fn default_terms_apply_to_tools_that_are_not_listed() {
    let text = varied("    tools:", "    default: free\n    tools:");
    let (config, _) = load(&text, Format::Yaml).unwrap();
    let terms = config.servers["weather"].terms("anything").unwrap();
    assert_eq!(terms.tool.to_string(), "weather/anything");
    assert_eq!(terms.price_for("t", "a"), Some(Price::FREE));
}

#[test]
fn prices_by_rule() {
    let rules = "price: [{ tenant: acme, price: free }, { agent: bot, price: [0.02 USDC] }]";
    let (config, _) = load(&varied("price: 0.01 USDC", rules), Format::Yaml).unwrap();
    let terms = config.servers["weather"].terms("get_forecast").unwrap();
    assert_eq!(terms.price_for("acme", "bot"), Some(Price::FREE));
    assert_eq!(terms.price_for("other", "bot").unwrap().amounts[0].minor, 20_000);
    assert_eq!(terms.price_for("other", "other"), None, "refused, never free");
}

#[test]
fn work_is_an_alternative_where_a_rail_takes_it() {
    let rail = "rails:\n  pow: { capacity_per_s: 5, max_difficulty: 60000 }\n";
    let with = |price: &str| {
        let text = varied("price: 0.01 USDC", &format!("price: {price}")).replace("rails:\n", rail);
        let (config, _) = load(&text, Format::Yaml).unwrap();
        let pow = config.rails.pow.unwrap();
        assert_eq!((pow.capacity_per_s, pow.daily_quota), (5, 100));
        assert_eq!((pow.min_difficulty, pow.max_difficulty, pow.ttl_ms), (50_000, 60_000, 60_000));
        let terms = config.servers["weather"].terms("get_forecast").unwrap();
        let price = terms.price_for("t", "a").unwrap();
        (price.amounts.len(), price.work, price.is_free(), terms.consent)
    };
    assert_eq!(with("[0.01 USDC, work]"), (1, true, false, ConsentRule::Required));
    assert_eq!(with("work"), (0, true, false, ConsentRule::NotRequired), "it costs no money");
    assert_eq!(with("[{ tenant: t, price: [work] }]"), (0, true, false, ConsentRule::NotRequired));
    let refused = |text: &str| load(text, Format::Yaml).unwrap_err().to_string();
    let nowhere = refused(&varied("price: 0.01 USDC", "price: [0.01 USDC, work]"));
    assert!(nowhere.contains("price[1]: no rail takes work"), "{nowhere}");
    for (pow, problem) in [
        ("{ capacity_per_s: 0 }", "rails.pow.capacity_per_s: 0 is less than 1"),
        ("{ capacity_per_s: 10001 }", "rails.pow.capacity_per_s: 10001 is more than 10000"),
        ("{ daily_quota: 0 }", "rails.pow.daily_quota: 0 is less than 1"),
        ("{ min_difficulty: 1000000000000000 }", "rails.pow.min_difficulty: "),
        ("{ min_difficulty: 90000, max_difficulty: 60000 }", "it is below `min_difficulty`"),
        ("{ ttl: 10m }", "rails.pow.ttl"),
        ("{ difficulty: 5 }", "unknown member `difficulty`"),
    ] {
        let text = varied("rails:\n", &format!("rails:\n  pow: {pow}\n"));
        assert!(refused(&text).contains(problem), "{pow}: {}", refused(&text));
    }
}

#[test]
fn three_notations_mean_the_same() {
    let value: serde_json::Value = serde_yaml_ng::from_str(init_template()).unwrap();
    let json = serde_json::to_string_pretty(&value).unwrap();
    let toml = r#"
        listen = "127.0.0.1:8402"
        data_dir = "./data"
        sandbox = true
        [[issuers]]
        issuer = "http://127.0.0.1:9742"
        allow_private_network = true
        [assets.USDC]
        network = "eip155:84532"
        address = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
        decimals = 6
        name = "USDC"
        version = "2"
        rate = "1 USD"
        [assets.BTC]
        network = "lightning"
        rate = "60000 USD"
        [rails.x402]
        pay_to = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
        facilitator = { sandbox = "http://127.0.0.1:9741" }
        [rails.l402]
        source = { sandbox = "http://127.0.0.1:9740" }
        [servers.weather]
        upstream = "http://127.0.0.1:9743/mcp"
        [servers.weather.tools]
        get_forecast = { price = ["0.01 USDC", "3 sat"] }
        status = { price = "free" }
        [[budgets]]
        name = "each-person"
        scope = { delegator = "*" }
        limit = "10 USD"
        window = "24h"
    "#;
    let (yaml, warnings) = load(init_template(), Format::Yaml).unwrap();
    assert_eq!(warnings, [], "what `init` writes has no warnings");
    for (text, format) in [(&*json, Format::Json), (toml, Format::Toml)] {
        let (other, _) = load(text, format).unwrap();
        assert_eq!(format!("{other:?}"), format!("{yaml:?}"), "{format}");
    }
}

#[test]
fn the_same_mistakes_are_found_in_every_notation() {
    let (yaml, toml, json) = (
        "servers:\n  a:\n    upstream: http://h/\n    tols: {}\n",
        "[servers.a]\n\nupstream = 'http://h/'\ntols = {}\n",
        "{\"servers\": {\"a\": {\n\"upstream\": \"http://h/\",\n\n\"tols\": {}}}}",
    );
    for (text, format) in [(yaml, Format::Yaml), (toml, Format::Toml), (json, Format::Json)] {
        let errors = load(text, format).unwrap_err();
        let finding = errors.findings.iter().find(|f| f.path == "servers.a.tols").unwrap();
        assert_eq!(finding.line, Some(4), "{format}");
        assert_eq!(finding.suggestion.as_deref(), Some("did you mean `tools`?"), "{format}");
    }
}

#[test]
fn files_are_read_by_their_extension() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("config-files");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("token"), "hunter2\n").unwrap();
    let with = "headers: { x-token: \"file:token\" }\n    upstream:";
    std::fs::write(dir.join("good.yaml"), varied("upstream:", with)).unwrap();
    std::fs::write(dir.join("good.conf"), GOOD).unwrap();
    let at = |name: &str| load_with(&dir.join(name), &Surroundings::default());
    let (config, _) = at("good.yaml").unwrap();
    assert_eq!(config.servers["weather"].headers["x-token"], "hunter2");
    assert_eq!(config.data_dir, dir.join("data"));
    let message = at("good.conf").unwrap_err().to_string();
    assert!(message.contains("end it in .yaml, .yml, .toml or .json"), "{message}");
    assert!(at("absent.yaml").unwrap_err().to_string().contains("cannot be read"));
}

#[test]
fn the_json_template_loads_and_says_what_it_lacks() {
    golden(
        TEMPLATE,
        Format::Json,
        &expect![[r#"
            ok
              line 1: mcp_server: the template does not say where the server is: `http://127.0.0.1:3000/mcp`; add `upstream` here, or set `COUNTERSIGN_UPSTREAM`
              line 3: mcp_server.auth.identity.audience: this becomes the server's resource URI: clients that discover where to get a token expect there the URL that they call; let it be that URL if such clients are to come
              line 3: mcp_server.auth.identity.obo_enabled: on-behalf-of exchange is not offered; the caller's token never reaches the server, exchanged or not
              line 4: mcp_server.auth.payment: the template does not say what a bitcoin is worth: it counts as 1000000 USD in budgets and caps, too high on purpose, so that limits bind early; add `rate`, for example `"60000 USD"`
              line 4: mcp_server.auth.payment: the template does not say who makes invoices: priced tools take work alone; add `source`, for example `{ "sandbox": "http://127.0.0.1:9740" }`
              line 4: mcp_server.auth.payment.gateway: there is no payment gateway beside this one; it serves challenges itself; `source` says who makes invoices
              line 5: mcp_server.auth.payment.pricing.data_query: a price without an entry in `tools`: offered to callers with a token, with consent; add the tool to `tools`
              line 6: mcp_server.tools: a tool that needs no token can only be found without one: every method but `tools/call` is open to anybody, and so are the names of all tools; let every tool have `"requires_identity": true` if that is not meant
              line 6: mcp_server.tools[0]: the template does not speak of consent: `image_describe`; a person must have agreed; add `"consent": "none"` if nobody need"#]],
    );
    let (config, _) = load(TEMPLATE, Format::Json).unwrap();
    expect![[r#"
        Listens on 127.0.0.1:8402; clients reach it at http://127.0.0.1:8402. Data is kept in /etc/countersign/data; people administer it through /etc/countersign/data/admin.sock.
        Policy: the built-in bundle decides on every attempt.
        Log: its name is 127.0.0.1:8402; what is new gets a signed checkpoint within 1s.
        Tokens of https://your-tenant.auth0.com/ are accepted for the server's resource URI, whatever their `typ`; its principals are of tenant `default`.
        L402: nobody makes invoices, so prices in sat cannot be paid (PAY-018); a paid credential is valid for 5m.
        Proof of work: 50 calls a second, 100 a day for each caller, 1048576 to 4194304 hashes each; a challenge is good for 1m.
        Money: budgets and caps count 1 BTC as 1000000 USD; a price once quoted holds for 5m; nobody has credit.
        main: http://127.0.0.1:8402/main/mcp in front of http://127.0.0.1:3000/mcp; methods other than tools/call are open to anybody; tokens must be for https://api.mcp-server.internal.
        main/data_query: any token may call; it costs 1 sat over L402 or proof of work; money is taken before it runs; a person must have agreed; in doubt, a person decides, and is told to give the money back; no budget limits it; it has 30s; policy is told: sensitivity 1 of 3, not reversible.
        main/image_describe: any token may call; it costs 3 sat over L402 or proof of work; money is taken before it runs; a person must have agreed; in doubt, a person decides, and is told to give the money back; no budget limits it; it has 30s; policy is told: sensitivity 1 of 3, not reversible.
        main/status: anybody may call; it is free; nobody needs to have agreed; it has 30s; policy is told: sensitivity 1 of 3, not reversible.
        main: every other tool is hidden and refused (REQ-015).
        Refused besides: bodies over 1 MiB, headers over 32 KiB, JSON deeper than 64, results over 8 MiB, more than 1024 calls at once, 64 unpaid quotes or 16 pending approvals of one principal, 60 requests for approval of one agent an hour; 120 failed payments of one principal and 1200 of one address a minute, 120 and 600 unpaid invoices; browsers from anywhere but http://127.0.0.1:8402."#]].assert_eq(&explain(&config).join("\n"));
}

/// A file that says otherwise wherever it can.
const ELABORATE: &str = r#"
sandbox: true
credit: true
issuers:
  - issuer: http://127.0.0.1:9742
    allow_private_network: true
    human_claim: auth_time
assets:
  USDC: { network: "eip155:84532", address: "0x036CbD53842c5426634e7929541eC2318f3dCF7e", decimals: 6, name: USDC, version: "2", rate: 1 USD }
  BTC: { network: lightning, rate: 60000 USD }
rails:
  x402:
    pay_to: "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
    facilitator: { sandbox: "http://127.0.0.1:9741" }
    max_timeout: 90s
  l402:
    source: { sandbox: "http://127.0.0.1:9740" }
    hold_max_sat: 100
metrics: { listen: 127.0.0.1:9464 }
audit: { checkpoint: 1h }
limits: { quote_ttl: 2m }
servers:
  weather:
    upstream: http://127.0.0.1:9743/mcp
    trust_annotations: true
    payment_form: http
    tools:
      held: { price: ["0.01 USDC", "3 sat"], flow: authorization }
      dear: { price: "101 sat" }
      both: { price: ["0.01 USDC", "101 sat"] }
      many: { price: "3 sat", uses: 100, idempotent: true, intent: read, sensitivity: 0, reversible: true, open_world: false, keep_output_schema: true }
      more: { price: 1 USDC, top_up: true }
"#;

#[test]
fn all_is_said_that_could_have_been_said_otherwise() {
    let (config, _) = load(ELABORATE, Format::Yaml).unwrap();
    expect![[r#"
        Listens on 127.0.0.1:8402; clients reach it at http://127.0.0.1:8402. Data is kept in /etc/countersign/data; people administer it through /etc/countersign/data/admin.sock.
        Sandbox: money is play money, and nothing leaves this machine.
        Policy: the built-in bundle decides on every attempt.
        Metrics: anybody who reaches 127.0.0.1:9464 reads them.
        Log: its name is 127.0.0.1:8402; what is new gets a signed checkpoint within 1h.
        Tokens of http://127.0.0.1:9742 are accepted for the server's resource URI; its principals are of tenant `default`; only claim `auth_time` makes its subject a person; it may be in a private network, over plain http too.
        x402: USDC to 0x209693Bc6afc0C5328bA36FaF03C514EF312287C; the sandbox at http://127.0.0.1:9741/ pretends to settle; a payment is good for at most 90s.
        L402: the sandbox at http://127.0.0.1:9740/ pretends invoices; money for one call is taken when it has run; a paid credential is valid for 10m.
        Money: budgets and caps count 1 BTC as 60000 USD, 1 USDC as 1 USD; a price once quoted holds for 2m; callers with a token may have credit, and what is owed back to them becomes it.
        weather: http://127.0.0.1:8402/weather/mcp in front of http://127.0.0.1:9743/mcp; methods other than tools/call are open to any token; what its tools say of themselves is believed; payment is always asked for with HTTP 402.
        weather/both: any token may call; it costs 0.01 USDC over x402 or 101 sat over L402; money is taken before it runs; a person must have agreed; in doubt, a person decides, and is told to give the money back; no budget limits it; it has 30s; policy is told: sensitivity 1 of 3, not reversible.
        weather/dear: any token may call; it costs 101 sat over L402; money is taken before it runs; a person must have agreed; in doubt, a person decides, and is told to give the money back; no budget limits it; it has 30s; policy is told: sensitivity 1 of 3, not reversible.
        weather/held: any token may call; it costs 0.01 USDC over x402 or 3 sat over L402; x402 money is taken after it ran, and the result is withheld if that fails; Lightning money is taken when it has run, and goes back if it fails; a person must have agreed; in doubt, a person decides, and is told to give the money back; no budget limits it; it has 30s; policy is told: sensitivity 1 of 3, not reversible.
        weather/many: any token may call; it costs 3 sat over L402; money is taken before it runs; a person must have agreed; in doubt, a person decides, and is told to give the money back; no budget limits it; it has 30s; policy is told: intent `read`, sensitivity 0 of 3, reversible, about nothing outside of its server; one L402 credential pays for 100 calls; run again with the same key after a failure of ours; lists keep its `outputSchema`.
        weather/more: any token may call; it costs 1 USDC over x402; money is taken before it runs; a person must have agreed; in doubt, a person decides, and is told to give the money back; no budget limits it; it has 30s; policy is told: sensitivity 1 of 3, not reversible; what it costs becomes the caller's credit.
        weather: every other tool is hidden and refused (REQ-015).
        Refused besides: bodies over 1 MiB, headers over 32 KiB, JSON deeper than 64, results over 8 MiB, more than 1024 calls at once, 64 unpaid quotes or 16 pending approvals of one principal, 60 requests for approval of one agent an hour; 120 failed payments of one principal and 1200 of one address a minute, 120 and 600 unpaid invoices; browsers from anywhere but http://127.0.0.1:8402."#]].assert_eq(&explain(&config).join("\n"));
}

#[test]
fn nothing_beside_the_sandbox_leaves_loopback() {
    let open = ELABORATE.replace("127.0.0.1:9464", "0.0.0.0:9464");
    golden(
        &open,
        Format::Yaml,
        &expect![[r#"
        configuration: 1 problem
          line 19: metrics.listen: the sandbox must stay on loopback; listen on `127.0.0.1`, or use real parts and remove `sandbox`"#]],
    );
}

#[test]
fn the_json_template_can_be_completed() {
    let added = r#""rate": "60000 USD", "source": {"sandbox": "http://127.0.0.1:9740"},
        "macaroon_ttl_seconds": 300"#;
    let text = TEMPLATE.replace("\"macaroon_ttl_seconds\": 300", added);
    let surroundings =
        Surroundings::default().with("COUNTERSIGN_UPSTREAM", "http://127.0.0.1:9/mcp");
    let (config, warnings) =
        load_text(&text, Format::Json, Path::new("/x"), &surroundings).unwrap();
    assert!(config.sandbox);
    assert_eq!(&*config.servers["main"].resource, "https://api.mcp-server.internal");
    assert_eq!(config.servers["main"].upstream, "http://127.0.0.1:9/mcp");
    let lacking = warnings.iter().filter(|w| w.message.contains("does not say"));
    assert_eq!(lacking.count(), 0, "{warnings:?}");
}

#[test]
fn the_json_template_is_checked_like_our_own_file() {
    let text = TEMPLATE
        .replace("\"sats\": 3", "\"sats\": 0")
        .replace("\"macaroon_ttl_seconds\": 300", "\"macaroon_ttl_seconds\": 1")
        .replace("your-tenant.auth0.com", "https://your-tenant.auth0.com");
    golden(
        &text,
        Format::Json,
        &expect![[r#"
        configuration: 3 problems
          line 3: mcp_server.auth.identity.tenant: expected a host, not a URL; write it as `your-tenant.auth0.com`
          line 4: mcp_server.auth.payment.macaroon_ttl_seconds: `1s` is out of bounds; choose between 30s and 1d
          line 5: mcp_server.auth.payment.pricing.image_describe: a price of zero; write `free` if it is free"#]],
    );
    let text = TEMPLATE.replace("pricing", "prices").replace("requires_identity", "needs_identity");
    golden(
        &text,
        Format::Json,
        &expect![[r#"
        configuration: 5 problems
          line 5: mcp_server.auth.payment.prices: unknown member `prices`; known here: `gateway`, `macaroon_ttl_seconds`, `pow_difficulty`, `pow_enabled`, `pricing`, `protocol`, `rate`, `source`
          line 6: mcp_server.tools[0]: `requires_identity` is missing; it is: Callers need a token
          line 6: mcp_server.tools[0].needs_identity: unknown member `needs_identity`; known here: `consent`, `name`, `requires_identity`, `requires_payment`
          line 7: mcp_server.tools[1]: `requires_identity` is missing; it is: Callers need a token
          line 7: mcp_server.tools[1].needs_identity: unknown member `needs_identity`; known here: `consent`, `name`, `requires_identity`, `requires_payment`"#]],
    );
    let text = TEMPLATE.replace(
        "\"name\": \"status\", \"requires_payment\": false",
        "\"name\": \"status\", \"requires_payment\": true",
    );
    golden(
        &text,
        Format::Json,
        &expect![[r#"
        configuration: 1 problem
          line 7: mcp_server.tools[1]: `status` requires payment and has no price; add it to `auth.payment.pricing`"#]],
    );
}

#[test]
fn the_meaning_in_sentences() {
    let text = varied(
        "      get_forecast: { price: 0.01 USDC }",
        "      get_forecast: { price: 0.01 USDC, flow: authorization, scopes: [\"mcp:call\"] }
      status: { price: free, identity: anonymous }
      write: { price: [{ tenant: acme, price: free }, { agent: bot, price: 2 USDC }], identity: human, consent: none, in_doubt: capture }
    relay: { scopes: [mcp] }
budgets:
  - { name: all, limit: 100 USD, window: lifetime }
  - { name: writers, limit: 1.50 USD, window: 1h, scope: { tenant: acme, agent: \"*\", tool: weather/write } }",
    );
    let (config, warnings) = load(&text, Format::Yaml).unwrap();
    let lines = explain(&config).into_iter().chain(warnings.iter().map(ToString::to_string));
    expect![[r#"
        Listens on 127.0.0.1:8402; clients reach it at http://127.0.0.1:8402. Data is kept in /etc/countersign/data; people administer it through /etc/countersign/data/admin.sock.
        Policy: the built-in bundle decides on every attempt.
        Log: its name is 127.0.0.1:8402; what is new gets a signed checkpoint within 1s.
        Tokens of https://idp.example.com are accepted for the server's resource URI; its principals are of tenant `default`.
        x402: USDC to 0x209693Bc6afc0C5328bA36FaF03C514EF312287C; https://facilitator.example.com/ verifies and settles; a payment is good for at most 1m.
        Money: budgets and caps count 1 USDC as 1 USD; a price once quoted holds for 5m; nobody has credit.
        weather: http://127.0.0.1:8402/weather/mcp in front of http://127.0.0.1:3001/mcp; methods other than tools/call are open to tokens with mcp.
        weather/get_forecast: any token may call with mcp:call; it costs 0.01 USDC over x402; money is taken after it ran, and the result is withheld if that fails; a person must have agreed; in doubt, a person decides, and is told to give the money back; it counts in all; it has 30s; policy is told: sensitivity 1 of 3, not reversible.
        weather/status: anybody may call; it is free; nobody needs to have agreed; it has 30s; policy is told: sensitivity 1 of 3, not reversible.
        weather/write: a person's delegate may call; it costs nothing for tenant `acme`, then 2 USDC over x402 for agent `bot`, then nobody else may call (PAY-020); money is taken before it runs; nobody needs to have agreed; in doubt, a person decides, and is told to keep the money; it counts in all, writers; it has 30s; policy is told: sensitivity 1 of 3, not reversible.
        weather: every other tool is hidden and refused (REQ-015).
        Budget all: at most 100 USD ever, all callers together.
        Budget writers: at most 1.5 USD within any 1h, counted for tenant `acme` and each agent and tool `weather/write`.
        Refused besides: bodies over 1 MiB, headers over 32 KiB, JSON deeper than 64, results over 8 MiB, more than 1024 calls at once, 64 unpaid quotes or 16 pending approvals of one principal, 60 requests for approval of one agent an hour; 120 failed payments of one principal and 1200 of one address a minute, 120 and 600 unpaid invoices; browsers from anywhere but http://127.0.0.1:8402.
        line 17: servers.weather: a tool is anonymous, but listing tools needs a token; add `relay: { anonymous: true }` if callers without a token should see it
        line 22: servers.weather.tools.write.price: the reference x402 client refuses to pay more than 1 USD; lower the price, or tell your clients to raise their cap"#]].assert_eq(&lines.collect::<Vec<_>>().join("\n"));
}

#[test]
fn the_published_schema_is_the_types() {
    let text = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    expect_file!["../../../docs/config.schema.json"].assert_eq(&text);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_input_panics(text in "\\PC{0,200}") {
        for format in [Format::Yaml, Format::Toml, Format::Json] {
            let _said = said(&text, format);
        }
    }

    #[test]
    fn no_damaged_file_panics(from in 0usize..2000, length in 0usize..40, put in "[\\PC\n]{0,12}") {
        for (text, format) in [(init_template(), Format::Yaml), (TEMPLATE, Format::Json)] {
            let head: String = text.chars().take(from).collect();
            let tail: String = text.chars().skip(from + length).collect();
            let _said = said(&format!("{head}{put}{tail}"), format);
        }
    }
}
