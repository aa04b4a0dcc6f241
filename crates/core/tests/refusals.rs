//! Every refusal has its page, its golden answer, and a page that says what the table says.
//!
//! Golden files, and the examples in the pages, come from [`SAMPLES`]: one occurrence of each code,
//! with the lights and facts that the path gives it. `UPDATE_EXPECT=1 cargo test` renews the golden
//! files; the examples in the pages are then brought in line by hand.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test that meets the unexpected fails")]

use countersign_core::{
    ids::CallId,
    refusal::{Actor, Charged, Code, Light, Lights, Refusal, Retry},
    time::UnixMs,
};
use expect_test::expect_file;
use std::{collections::BTreeSet, fs, path::PathBuf};

const NOW: UnixMs = UnixMs(1_795_000_000_000);
const CALL: &str = "call_01a1ee565e000000000000000000000a";
const EARLIER: &str = "call_01a1ee565e00000000000000000000ff";
const GRANT: &str = "grant_01a1ee565e0000000000000000000001";
const APPROVAL: &str = "appr_01a1ee565e0000000000000000000002";
const CREATE_GRANT: &str = "countersign grant create --tenant acme --issuer https://idp.example.com \
     --subject ada --agent research-bot --server weather --tool get_forecast --intent read \
     --per-call '0.01 USD' --expires 24h";
const APPROVE: &str = "countersign approvals approve appr_01a1ee565e0000000000000000000002";

/// Facts of one occurrence.
type Facts = &'static [(&'static str, &'static str)];

/// One occurrence: its code, whether money moved, the lights (identity, consent, payment,
/// authorization: `o` ok, `f` not required, `m` missing, `r` refused, `p` pending, `.` not
/// reached), whether the call has an id yet, and its facts.
struct Sample(Code, Charged, &'static str, Named, Facts);

/// Whether the call has an identifier when the refusal is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Named {
    /// The request never became a call.
    No,
    /// It did.
    Yes,
}

/// What the path says of a grant that does not cover a call.
const ASKED: Facts = &[
    ("grant", GRANT),
    ("tool", "weather/get_forecast"),
    ("agent", "research-bot"),
    ("intent", "read"),
    ("price", "0.01 USDC or 3 sat"),
    ("approve_with", CREATE_GRANT),
];

const SAMPLES: &[Sample] = {
    use Charged::{No as Free, Unknown, Unused, Yes as Taken};
    use Code::*;
    use Named::{No, Yes};
    &[
        Sample(MalformedJson, Free, "....", No, &[("detail", "not JSON at byte 41")]),
        Sample(TooLarge, Free, "....", No, &[]),
        Sample(TooDeep, Free, "....", No, &[("detail", "the JSON text is nested too deeply")]),
        Sample(DuplicateKey, Free, "....", No, &[("detail", "an object has the same key twice")]),
        Sample(
            Batch,
            Free,
            "....",
            No,
            &[("detail", "batches are not accepted: send one message a request")],
        ),
        Sample(NotJsonRpc, Free, "....", No, &[("detail", "not a JSON-RPC 2.0 message")]),
        Sample(
            HeaderMismatch,
            Free,
            "....",
            No,
            &[("detail", "the header `Mcp-Name` differs from the body")],
        ),
        Sample(ForeignOrigin, Free, "....", No, &[]),
        Sample(UnknownServer, Free, "....", No, &[]),
        Sample(MethodNotAllowed, Free, "....", No, &[]),
        Sample(UnsupportedMedia, Free, "....", No, &[]),
        Sample(UnknownSession, Free, "....", No, &[]),
        Sample(AmbiguousPayment, Free, "....", No, &[]),
        Sample(AmbiguousHeaders, Free, "....", No, &[("header", "authorization")]),
        Sample(UnknownTool, Free, "....", No, &[]),
        Sample(
            MissingModernMeta,
            Free,
            "....",
            No,
            &[(
                "detail",
                "`io.modelcontextprotocol/clientCapabilities` is missing or has the wrong type",
            )],
        ),
        Sample(IdempotencyConflict, Free, "oooo", Yes, &[]),
        Sample(HeadersTooLarge, Free, "....", No, &[]),
        Sample(TooManyOpenQuotes, Free, "oomo", Yes, &[]),
        Sample(RequestState, Free, "o...", Yes, &[]),
        Sample(TokenMissing, Free, "m...", Yes, &[]),
        Sample(TokenMalformed, Free, "r...", Yes, &[("reason", "not a compact JWS")]),
        Sample(TokenSignature, Free, "r...", Yes, &[("reason", "the signature does not verify")]),
        Sample(TokenExpired, Free, "r...", Yes, &[("reason", "`exp` has passed")]),
        Sample(TokenAudience, Free, "r...", Yes, &[("reason", "`aud` is not this resource")]),
        Sample(TokenIssuer, Free, "r...", Yes, &[("reason", "`iss` is not a configured issuer")]),
        Sample(
            TokenType,
            Free,
            "r...",
            Yes,
            &[("reason", "`typ` is not `at+jwt`, or the claims are those of another kind")],
        ),
        Sample(ScopeMissing, Free, "r...", Yes, &[("scope", "weather:read weather:pay")]),
        Sample(KeysUnavailable, Free, "r...", Yes, &[]),
        Sample(TokenHeader, Free, "r...", Yes, &[("reason", "a header member is not allowed")]),
        Sample(HumanRequired, Free, "r...", Yes, &[]),
        Sample(ChainTooDeep, Free, "r...", Yes, &[("reason", "`act` is nested deeper than 5")]),
        Sample(SenderConstrained, Free, "r...", Yes, &[("reason", "`cnf` is present")]),
        Sample(
            TokenClaim,
            Free,
            "r...",
            Yes,
            &[("reason", "`client_id` is missing or of the wrong type")],
        ),
        Sample(TokenTooLarge, Free, "r...", Yes, &[("reason", "longer than 16 KiB")]),
        Sample(TokenInQuery, Free, "....", No, &[]),
        Sample(TenantUnknown, Free, "r...", Yes, &[("reason", "no known tenant")]),
        Sample(StepUpRequired, Free, "r...", Yes, &[("acr_values", "mfa"), ("max_age", "600")]),
        Sample(
            NoGrant,
            Free,
            "om..",
            Yes,
            &[
                ("tool", "weather/get_forecast"),
                ("agent", "research-bot"),
                ("intent", "read"),
                ("price", "0.01 USDC or 3 sat"),
                ("approve_with", CREATE_GRANT),
            ],
        ),
        Sample(GrantExpired, Free, "or..", Yes, ASKED),
        Sample(GrantRevoked, Free, "or..", Yes, ASKED),
        Sample(GrantSuspended, Free, "or..", Yes, ASKED),
        Sample(OverPerCallCap, Free, "or..", Yes, ASKED),
        Sample(GrantExhausted, Free, "or..", Yes, ASKED),
        Sample(IntentNotGranted, Free, "or..", Yes, ASKED),
        Sample(
            ApprovalPending,
            Free,
            "oo.p",
            Yes,
            &[
                ("approval", APPROVAL),
                ("approve_with", APPROVE),
                ("until", "2026-11-18T11:11:40.000Z"),
            ],
        ),
        Sample(
            ApprovalDenied,
            Free,
            "or..",
            Yes,
            &[("approval", APPROVAL), ("reason", "not this month")],
        ),
        Sample(ApprovalExpired, Free, "or..", Yes, &[("approval", APPROVAL)]),
        Sample(PurposeNotGranted, Free, "or..", Yes, ASKED),
        Sample(
            ApproverNotEligible,
            Free,
            "....",
            No,
            &[("approval", APPROVAL), ("rule", "this person has agreed already")],
        ),
        Sample(PayeeNotGranted, Free, "or..", Yes, ASKED),
        Sample(PayerNotGranted, Free, "or..", Yes, ASKED),
        Sample(ArgumentsNotGranted, Free, "or..", Yes, ASKED),
        Sample(
            ConsentEvidence,
            Free,
            "or..",
            Yes,
            &[("decimals", "6"), ("rule", "`decimals` are not those of the asset")],
        ),
        Sample(PayerNotLinked, Free, "or..", Yes, &[("tool", "weather/get_forecast")]),
        Sample(PaymentRequired, Free, "oomo", Yes, &[]),
        Sample(
            PaymentMalformed,
            Free,
            "....",
            No,
            &[("detail", "expected `<macaroon>:<preimage>`")],
        ),
        Sample(PaymentSignature, Free, "ooro", Yes, &[]),
        Sample(PaymentAmount, Free, "ooro", Yes, &[]),
        Sample(PaymentTerms, Free, "ooro", Yes, &[]),
        Sample(PaymentOtherCall, Free, "ooro", Yes, &[]),
        Sample(PaymentWindow, Free, "ooro", Yes, &[]),
        Sample(PaymentUsed, Free, "ooro", Yes, &[("call", EARLIER)]),
        Sample(SettlementFailed, Free, "ooro", Yes, &[]),
        Sample(SettlementUnknown, Unknown, "oopo", Yes, &[]),
        Sample(FacilitatorDown, Free, "ooro", Yes, &[]),
        Sample(CredentialInvalid, Free, "..r.", Yes, &[]),
        Sample(CaveatUnknown, Free, "..r.", Yes, &[]),
        Sample(PreimageMismatch, Free, "..r.", Yes, &[]),
        Sample(QuoteExpired, Free, "ooro", Yes, &[]),
        Sample(PayerFunds, Free, "ooro", Yes, &[]),
        Sample(CredentialExhausted, Free, "ooro", Yes, &[]),
        Sample(NoRail, Free, "o.r.", Yes, &[]),
        Sample(
            OldVersion,
            Free,
            "....",
            No,
            &[("detail", "x402 version 1 is not accepted: use version 2")],
        ),
        Sample(NoPrice, Free, "o.r.", Yes, &[]),
        Sample(WorkForeign, Free, "ooro", Yes, &[]),
        Sample(WorkTooLittle, Free, "ooro", Yes, &[]),
        Sample(WorkExpired, Free, "ooro", Yes, &[]),
        Sample(WorkSubject, Free, "ooro", Yes, &[]),
        Sample(FreeQuotaUsed, Free, "ooro", Yes, &[("daily_quota", "100")]),
        Sample(FreeLaneFull, Free, "ooro", Yes, &[]),
        Sample(TreasuryUnpaid, Free, "ooro", Yes, &[]),
        Sample(FailuresTooMany, Free, "ooro", Yes, &[("cause", "PAY-001")]),
        Sample(InvoicesTooMany, Free, "oomo", Yes, &[]),
        Sample(
            Forbidden,
            Free,
            "oo.r",
            Yes,
            &[("reason", "SECRET_NEEDS_PERSON (secret.needs-person)")],
        ),
        Sample(PolicyError, Free, "oo.r", Yes, &[]),
        Sample(UnknownObligation, Free, "oo.r", Yes, &[]),
        Sample(IntentMismatch, Free, "oo.r", Yes, &[("effective", "delete")]),
        Sample(DecisionStale, Free, "ooor", Yes, &[]),
        Sample(ExternalDenied, Free, "oo.r", Yes, &[]),
        Sample(ExternalUnavailable, Free, "oo.r", Yes, &[("reason", "unreachable")]),
        Sample(
            BudgetExceeded,
            Free,
            "oo.r",
            Yes,
            &[("remaining", "0.004 USD"), ("price", "0.01 USD")],
        ),
        Sample(AssetUnknown, Free, "o..r", Yes, &[]),
        Sample(RateLimited, Free, "oo.r", Yes, &[("pending_approvals", "16")]),
        Sample(UpstreamUnreachable, Unused, "oooo", Yes, &[]),
        Sample(UpstreamTimeout, Taken, "oooo", Yes, &[]),
        Sample(UpstreamBroken, Taken, "oooo", Yes, &[]),
        Sample(ResultTooLarge, Taken, "oooo", Yes, &[]),
        Sample(ResultWithheld, Free, "oooo", Yes, &[("cause", "PAY-016")]),
        Sample(PriceChanged, Free, "oooo", Yes, &[("quoted", "0.01 USDC"), ("asked", "0.02 USDC")]),
        Sample(
            PriceUnusable,
            Free,
            "o...",
            Yes,
            &[("why", "it answered without asking for a payment")],
        ),
        Sample(PurchaseRefused, Taken, "oooo", Yes, &[("said", "PAY-005")]),
        Sample(StoreFault, Free, "oooo", Yes, &[]),
        Sample(Overloaded, Free, "oooo", Yes, &[]),
        Sample(InternalFault, Unknown, "oooo", Yes, &[]),
        Sample(ShuttingDown, Free, "....", No, &[]),
        Sample(InProgress, Unknown, "oooo", Yes, &[("call", EARLIER)]),
        Sample(
            AdminInvalid,
            Free,
            "....",
            No,
            &[("member", "per_call"), ("reason", "expected an amount such as `0.05 USD`")],
        ),
        Sample(AdminNotFound, Free, "....", No, &[("what", "grant")]),
        Sample(AdminConflict, Free, "....", No, &[("reason", "the approval was answered before")]),
        Sample(SignInNeeded, Free, "....", No, &[]),
        Sample(RoleMissing, Free, "....", No, &[("needs", "approver, admin")]),
        Sample(FormStale, Free, "....", No, &[]),
        Sample(
            SignInFailed,
            Free,
            "....",
            No,
            &[("reason", "the issuer refused the code with 400")],
        ),
        Sample(KeyReused, Free, "....", No, &[]),
        Sample(
            BundleRefused,
            Free,
            "....",
            No,
            &[
                ("cause", "revision"),
                ("reason", "revision 3 is not above 4, which was in force: give it a higher one"),
            ],
        ),
        Sample(KeyUnanswered, Free, "....", No, &[]),
        Sample(AuthzenInvalid, Free, "....", No, &[("reason", "missing field `subject`")]),
        Sample(
            ConfigRefused,
            Free,
            "....",
            No,
            &[("reason", "a change of `listen` takes a new start")],
        ),
    ]
};

fn refusal(sample: &Sample) -> Refusal {
    let Sample(code, charged, lights, named, facts) = sample;
    let mut refusal = Refusal::new(*code).charged(*charged).lights(lights_of(lights));
    for (name, value) in *facts {
        refusal = refusal.with(name, value);
    }
    let waits = [Code::KeysUnavailable, Code::FailuresTooMany, Code::InvoicesTooMany];
    if waits.contains(code) {
        refusal = refusal.retry_after_s(5);
    }
    match named {
        Named::Yes => refusal.call(CALL.parse::<CallId>().unwrap()),
        Named::No => refusal,
    }
}

fn lights_of(letters: &str) -> Lights {
    let lights: Vec<Light> = letters
        .chars()
        .map(|letter| match letter {
            'o' => Light::Ok,
            'f' => Light::NotRequired,
            'm' => Light::Missing,
            'r' => Light::Refused,
            'p' => Light::Pending,
            _ => Light::NotReached,
        })
        .collect();
    let [identity, consent, payment, authorization] = lights.try_into().unwrap();
    Lights { identity, consent, payment, authorization }
}

fn problem(sample: &Sample) -> String {
    serde_json::to_string_pretty(&refusal(sample).problem()).unwrap() + "\n"
}

fn crate_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn pages_dir() -> PathBuf {
    crate_dir().join("../../docs/refusals")
}

fn page(code: Code) -> String {
    let path = pages_dir().join(format!("{code}.md"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names of the files in a folder, without their extension.
fn stems(dir: PathBuf) -> BTreeSet<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    names.map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect()
}

/// Prose with its lines joined: pages wrap where they like.
fn joined(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

const fn retry_words(retry: Retry) -> &'static str {
    match retry {
        Retry::Never => "never as it stands",
        Retry::AfterAction => "after the next action",
        Retry::Later => "later, unchanged",
    }
}

const fn actor_words(actor: Actor) -> &'static str {
    match actor {
        Actor::Client => "the client",
        Actor::Human => "a person",
        Actor::Operator => "the operator",
    }
}

#[test]
fn every_code_has_one_sample() {
    let sampled: Vec<Code> = SAMPLES.iter().map(|sample| sample.0).collect();
    assert_eq!(sampled, Code::ALL);
}

#[test]
fn golden_answers() {
    let dir = crate_dir().join("tests/golden/refusals");
    for sample in SAMPLES {
        expect_file![dir.join(format!("{}.json", sample.0))].assert_eq(&problem(sample));
    }
    let codes: BTreeSet<String> = Code::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(stems(dir), codes, "a golden answer without a code");
}

#[test]
fn every_code_has_its_page_and_no_page_lacks_a_code() {
    let mut expected: BTreeSet<String> = Code::ALL.iter().map(ToString::to_string).collect();
    expected.insert("README".to_owned());
    assert_eq!(stems(pages_dir()), expected);
}

#[test]
fn pages_say_what_the_table_says() {
    for code in Code::ALL {
        let (row, page) = (code.row(), page(*code));
        let title = format!("# {}: {}", row.text, row.title);
        assert_eq!(page.lines().next(), Some(&*title));
        let summary = format!(
            "HTTP {} · retry {} · {} acts",
            row.status,
            retry_words(row.retry),
            actor_words(row.actor)
        );
        assert_eq!(page.lines().nth(2), Some(&*summary), "{code}");
        let next = format!("**Next:** {}.", row.next);
        assert!(joined(&page).contains(&next), "{code}: the page lacks `{next}`");
        for part in ["**Money.**", "**An agent**", "**A person**"] {
            assert!(page.contains(part), "{code}: the page lacks {part}");
        }
        assert!(page.lines().count() <= 25, "{code}: the page is long");
    }
}

#[test]
fn pages_show_the_golden_answer() {
    for sample in SAMPLES {
        let page = page(sample.0);
        let example = page.split("```json\n").nth(1).and_then(|rest| rest.split("```").next());
        let example: serde_json::Value =
            serde_json::from_str(example.unwrap_or_else(|| panic!("{}: no example", sample.0)))
                .unwrap_or_else(|error| panic!("{}: {error}", sample.0));
        assert_eq!(example, serde_json::to_value(refusal(sample).problem()).unwrap());
    }
}

#[test]
fn the_index_lists_every_code() {
    let index = fs::read_to_string(pages_dir().join("README.md")).unwrap();
    let rows: Vec<&str> = index.lines().filter(|line| line.starts_with("| [")).collect();
    let expected: Vec<String> = Code::ALL
        .iter()
        .map(|code| {
            let row = code.row();
            let (text, retry, actor) = (row.text, retry_words(row.retry), actor_words(row.actor));
            format!("| [{text}]({text}.md) | {} | {} | {retry} | {actor} |", row.status, row.title)
        })
        .collect();
    assert_eq!(rows, expected);
}

#[test]
fn where_and_when_are_said_if_known() {
    let until = NOW.plus_ms(300_000);
    let refusal = Refusal::new(Code::ApprovalPending)
        .next("https://gw.example.com/approve/7Qk", Some(until))
        .retry_after_s(5);
    let problem = serde_json::to_value(refusal.problem()).unwrap();
    assert_eq!(problem.pointer("/next/url").unwrap(), "https://gw.example.com/approve/7Qk");
    assert_eq!(problem.pointer("/next/expires").unwrap(), &until.rfc3339());
    assert_eq!(problem.get("retry_after").unwrap(), 5);
    assert_eq!(problem.get("charged").unwrap(), "no");
}
