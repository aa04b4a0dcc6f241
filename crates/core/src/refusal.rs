//! Refusals: every way the answer can be no, in one closed table.
//!
//! Each [`Code`] has a stable text, an HTTP status, a public sentence, a retry rule, who must act
//! and what to do next, and a page under `docs/refusals/`. A [`Refusal`] is one occurrence.
//!
//! INVARIANT: nothing secret and no argument value enters a refusal; details are typed facts.

use crate::{ids::CallId, time::UnixMs};
use serde::Serialize;
use std::fmt;

/// Whether the caller's money moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Charged {
    /// Nothing was taken.
    No,
    /// Money was taken for this call.
    Yes,
    /// Not known yet: do not pay again.
    Unknown,
    /// A prepaid credential exists and stays usable (plain L402).
    Unused,
}

/// Who can change the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Actor {
    /// The calling program.
    Client,
    /// The person who delegated.
    Human,
    /// Whoever runs the gateway.
    Operator,
}

/// Whether the same request can succeed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// Not as it stands.
    Never,
    /// After the next action.
    AfterAction,
    /// After a while, unchanged.
    Later,
}

/// Which of the four proofs a refusal speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Light {
    /// The proof holds.
    Ok,
    /// Not needed: configured so.
    NotRequired,
    /// The proof is absent.
    Missing,
    /// The proof was looked at and refused.
    Refused,
    /// Waiting for somebody.
    Pending,
    /// Not looked at, since an earlier step refused.
    NotReached,
}

/// The four lights, in the order in which they are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Lights {
    /// Who calls, for whom.
    pub identity: Light,
    /// Did a human agree.
    pub consent: Light,
    /// Was the quote satisfied.
    pub payment: Light,
    /// May the call run.
    pub authorization: Light,
}

impl Lights {
    /// Nothing has been looked at.
    pub const DARK: Self = Self {
        identity: Light::NotReached,
        consent: Light::NotReached,
        payment: Light::NotReached,
        authorization: Light::NotReached,
    };
}

/// The family of a code: which part of the path says no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// The request itself.
    Request,
    /// Identity.
    Identity,
    /// Consent.
    Consent,
    /// Payment.
    Payment,
    /// Policy.
    Policy,
    /// Budgets and rates.
    Budget,
    /// The server behind.
    Upstream,
    /// The gateway itself.
    Fault,
    /// People who administer it.
    Admin,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Stable text, `PAY-003`.
    pub text: &'static str,
    /// Part of the path.
    pub family: Family,
    /// HTTP status.
    pub status: u16,
    /// Short public sentence.
    pub title: &'static str,
    /// Can the same request succeed later.
    pub retry: Retry,
    /// Who must act.
    pub actor: Actor,
    /// What to do next.
    pub next: &'static str,
}

macro_rules! codes {
    ($($name:ident = $text:literal $family:ident $status:literal $retry:ident $actor:ident
        $title:literal; $next:literal;)*) => {
        /// Every refusal there is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code { $(#[doc = $title] $name,)* }

        impl Code {
            /// All codes, in table order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The table's row.
            #[must_use]
            pub const fn row(self) -> Row {
                match self {
                    $(Self::$name => Row {
                        text: $text, family: Family::$family, status: $status, title: $title,
                        retry: Retry::$retry, actor: Actor::$actor, next: $next,
                    },)*
                }
            }
        }
    };
}

codes! {
    MalformedJson = "REQ-001" Request 400 Never Client "the body is not valid JSON"; "send one JSON-RPC 2.0 message in UTF-8";
    TooLarge = "REQ-002" Request 413 Never Client "the request is larger than the limit"; "send a smaller request";
    TooDeep = "REQ-003" Request 400 Never Client "the JSON is nested deeper than the limit"; "flatten the arguments";
    DuplicateKey = "REQ-004" Request 400 Never Client "a JSON object has the same member twice"; "send each member once";
    Batch = "REQ-005" Request 400 Never Client "batches are not accepted"; "send one message a request";
    NotJsonRpc = "REQ-006" Request 400 Never Client "the body is not a JSON-RPC 2.0 message"; "send `jsonrpc`, `method` and, for a request, a string or integer `id`";
    HeaderMismatch = "REQ-007" Request 400 Never Client "a mirrored header disagrees with the body"; "send MCP-Protocol-Version, Mcp-Method and Mcp-Name equal to the body";
    ForeignOrigin = "REQ-008" Request 403 Never Operator "the request comes from a foreign origin"; "add the origin to `allowed_origins` or call from an allowed one";
    UnknownServer = "REQ-009" Request 404 Never Client "no MCP server has this path"; "use `/{server}/mcp` with a configured server";
    MethodNotAllowed = "REQ-010" Request 405 Never Client "this HTTP method is not allowed here"; "use a method that the Allow header names";
    UnsupportedMedia = "REQ-011" Request 415 Never Client "the content type is not application/json"; "send `content-type: application/json`";
    UnknownSession = "REQ-012" Request 404 AfterAction Client "the session is unknown or has ended"; "send `initialize` again";
    AmbiguousPayment = "REQ-013" Request 400 Never Client "two payment credentials differ"; "send one payment in one place";
    AmbiguousHeaders = "REQ-014" Request 400 Never Client "a header that must be single occurs twice"; "send each credential header once";
    UnknownTool = "REQ-015" Request 404 Never Client "the tool is not offered here"; "list the tools and call one of them";
    MissingModernMeta = "REQ-016" Request 400 Never Client "a required protocol member is missing"; "send `io.modelcontextprotocol/protocolVersion` and `clientCapabilities` in `_meta`";
    IdempotencyConflict = "REQ-017" Request 409 Never Client "the same payment was used for another call"; "pay for this call with a payment of its own";
    HeadersTooLarge = "REQ-018" Request 431 Never Client "the headers are larger than the limit"; "send smaller headers";
    TooManyOpenQuotes = "REQ-019" Request 429 Later Client "too many unpaid quotes are open for this principal"; "pay or wait until open quotes expire";
    RequestState = "REQ-020" Request 400 Never Client "the request state is not of this call, was used, or has ended"; "send the call again without `requestState` and `inputResponses`";

    TokenMissing = "IDN-001" Identity 401 AfterAction Client "an access token is required"; "get a token from the authorization server named in the resource metadata";
    TokenMalformed = "IDN-002" Identity 401 AfterAction Client "the access token is malformed"; "send one compact JWT as `Authorization: Bearer`";
    TokenSignature = "IDN-003" Identity 401 AfterAction Client "the access token's signature is not valid"; "get a new token from a configured issuer";
    TokenExpired = "IDN-004" Identity 401 AfterAction Client "the access token is expired or not valid yet"; "get a new token";
    TokenAudience = "IDN-005" Identity 401 AfterAction Client "the access token is for another audience"; "request a token with this resource URI as audience";
    TokenIssuer = "IDN-006" Identity 401 AfterAction Client "the access token's issuer is not accepted"; "use an issuer listed in the resource metadata";
    TokenType = "IDN-007" Identity 401 AfterAction Client "this kind of token is not an access token"; "send an RFC 9068 access token";
    ScopeMissing = "IDN-008" Identity 403 AfterAction Client "the access token lacks a scope"; "request a token with the named scopes";
    KeysUnavailable = "IDN-009" Identity 503 Later Operator "the issuer's keys cannot be had right now"; "try again later";
    TokenHeader = "IDN-010" Identity 401 AfterAction Client "the access token's header has a forbidden member"; "get a token without `crit`, `b64`, `jku`, `jwk`, `x5u` or `x5c`";
    HumanRequired = "IDN-011" Identity 403 AfterAction Human "this tool needs a person's delegation"; "sign in as a person; a machine's own token is not enough";
    ChainTooDeep = "IDN-012" Identity 403 Never Client "the delegation chain is too deep"; "delegate over at most 5 hops";
    SenderConstrained = "IDN-013" Identity 401 AfterAction Client "a sender-constrained token was sent as a plain bearer"; "get a bearer token without `cnf`";
    TokenClaim = "IDN-014" Identity 401 AfterAction Client "a required claim is missing or of the wrong type"; "get a token with iss, sub, aud, exp and client_id";
    TokenTooLarge = "IDN-015" Identity 401 AfterAction Client "the access token is too large"; "get a smaller token";
    TokenInQuery = "IDN-016" Identity 400 Never Client "an access token was sent in the query"; "send it in the Authorization header only, and revoke this one";
    TenantUnknown = "IDN-017" Identity 403 Never Operator "the token names no known tenant"; "map the issuer's tenant claim in the configuration";
    StepUpRequired = "IDN-018" Identity 401 AfterAction Human "this call needs a new or stronger sign-in"; "sign in again as the challenge says, and retry with the new token";

    NoGrant = "CNS-001" Consent 403 AfterAction Human "no grant covers this call"; "approve a grant for this agent and tool";
    GrantExpired = "CNS-002" Consent 403 AfterAction Human "the grant has expired"; "approve a new grant";
    GrantRevoked = "CNS-003" Consent 403 AfterAction Human "the grant was revoked"; "approve a new grant";
    GrantSuspended = "CNS-004" Consent 403 AfterAction Human "the grant is suspended"; "review the change and approve again";
    OverPerCallCap = "CNS-005" Consent 403 AfterAction Human "the price is above the grant's cap per call"; "approve a grant with a higher cap, or call something cheaper";
    GrantExhausted = "CNS-006" Consent 403 AfterAction Human "the grant's total is used up"; "approve a new grant";
    IntentNotGranted = "CNS-007" Consent 403 AfterAction Human "the grant does not include this intent"; "approve a grant that lists the intent";
    ApprovalPending = "CNS-008" Consent 403 AfterAction Human "a person must approve this call"; "ask the approver, then retry the same call";
    ApprovalDenied = "CNS-009" Consent 403 Never Human "a person denied this call"; "do not retry; ask the person why";
    ApprovalExpired = "CNS-010" Consent 403 AfterAction Human "the approval expired before the call"; "retry to ask again";
    PurposeNotGranted = "CNS-011" Consent 403 AfterAction Human "the grant is for another purpose"; "declare the granted purpose or approve a new grant";
    ApproverNotEligible = "CNS-012" Consent 403 Never Human "this person may not answer this request"; "let somebody else answer";
    PayeeNotGranted = "CNS-013" Consent 403 AfterAction Human "the grant does not let this payee be paid"; "approve a grant that lists the payee";
    PayerNotGranted = "CNS-014" Consent 403 AfterAction Human "the grant does not let this wallet pay"; "pay from a wallet that the grant lists, on a rail that tells the payer";
    ArgumentsNotGranted = "CNS-015" Consent 403 AfterAction Human "the grant does not cover these arguments"; "call with arguments that the grant allows, or approve a new grant";
    ConsentEvidence = "CNS-016" Consent 403 AfterAction Human "the consent that came along is not acceptable"; "bring it in the documented form, within what its signer may say, or approve a grant";
    PayerNotLinked = "CNS-017" Consent 403 AfterAction Human "the wallet that pays is not linked to the person"; "link the wallet to the person, or pay from one that is linked";

    PaymentRequired = "PAY-001" Payment 402 AfterAction Client "payment is required"; "pay one of the offers and retry with the proof";
    PaymentMalformed = "PAY-002" Payment 400 Never Client "the payment credential is malformed"; "send the credential in one of the documented forms";
    PaymentSignature = "PAY-003" Payment 402 AfterAction Client "the payment's signature is not valid"; "sign the payment again with the paying key";
    PaymentAmount = "PAY-004" Payment 402 AfterAction Client "the payment's amount is not the offer's"; "pay exactly the offered amount";
    PaymentTerms = "PAY-005" Payment 402 AfterAction Client "the payment is not for one of our offers"; "pay one of the offers of the current challenge unchanged";
    PaymentOtherCall = "PAY-006" Payment 402 AfterAction Client "the payment is bound to another call"; "pay the challenge of this very call";
    PaymentWindow = "PAY-007" Payment 402 AfterAction Client "the payment's validity window does not fit"; "sign a payment valid from now until the challenge's timeout";
    PaymentUsed = "PAY-008" Payment 409 AfterAction Client "the payment was already used"; "make a new payment; never reuse one";
    SettlementFailed = "PAY-009" Payment 402 AfterAction Client "the payment could not be settled"; "check the paying account and pay again";
    SettlementUnknown = "PAY-010" Payment 503 Later Client "the state of the payment is not known"; "do not pay again; repeat the same request with the same payment";
    FacilitatorDown = "PAY-011" Payment 503 Later Operator "the payment cannot be verified right now"; "try again later with the same payment";
    CredentialInvalid = "PAY-012" Payment 401 AfterAction Client "the L402 credential is not valid"; "discard it and request a new challenge";
    CaveatUnknown = "PAY-013" Payment 401 AfterAction Client "the L402 credential has an unknown or unsatisfiable caveat"; "attenuate with known caveats only";
    PreimageMismatch = "PAY-014" Payment 401 AfterAction Client "the preimage does not belong to the invoice"; "send the preimage that paying the invoice revealed";
    QuoteExpired = "PAY-015" Payment 402 AfterAction Client "the quote has expired"; "request a new challenge; a prepaid credential is refunded";
    PayerFunds = "PAY-016" Payment 402 AfterAction Human "the paying account has too little"; "fund the account and pay again";
    CredentialExhausted = "PAY-017" Payment 402 AfterAction Client "the L402 credential is used up or for another call"; "pay the new challenge";
    NoRail = "PAY-018" Payment 503 Later Operator "no payment rail is available right now"; "try again later";
    OldVersion = "PAY-019" Payment 402 AfterAction Client "this version of x402 is not accepted"; "use x402 version 2";

    NoPrice = "PAY-020" Payment 403 Never Operator "no price is set for this caller"; "ask the operator for a price";
    WorkForeign = "PAY-021" Payment 402 AfterAction Client "the proof of work answers no challenge of this gateway"; "solve the challenge of this very call";
    WorkTooLittle = "PAY-022" Payment 402 AfterAction Client "the proof of work does not reach its target"; "solve the challenge, or pay";
    WorkExpired = "PAY-023" Payment 402 AfterAction Client "the challenge of the proof of work has expired"; "solve the new challenge, or pay";
    WorkSubject = "PAY-024" Payment 402 AfterAction Client "the proof of work was done for another caller"; "solve a challenge of your own, or pay";
    FreeQuotaUsed = "PAY-025" Payment 429 AfterAction Client "today's calls for work are used up"; "pay, or come back after midnight UTC";
    FreeLaneFull = "PAY-026" Payment 503 AfterAction Client "more calls for work came than there are places for"; "solve a new challenge a little later, or pay";

    TreasuryUnpaid = "PAY-027" Payment 503 Later Operator "the organisation's wallet did not pay the server behind"; "tell the operator: the wallet refuses, or cannot be reached";
    FailuresTooMany = "PAY-030" Payment 429 Later Client "too many payments of this caller failed or were left out"; "pay an offer that you have, or wait; do not repeat a call that asks for payment without one";
    InvoicesTooMany = "PAY-031" Payment 429 Later Client "too many invoices were asked for and not paid"; "pay an invoice that you have, or wait";

    Forbidden = "POL-001" Policy 403 Never Operator "policy forbids this call"; "read the reasons; ask the operator if they are wrong";
    PolicyError = "POL-002" Policy 503 Later Operator "policy could not be evaluated"; "tell the operator";
    UnknownObligation = "POL-003" Policy 503 Never Operator "policy asks for an obligation that cannot be met"; "tell the operator";
    IntentMismatch = "POL-004" Policy 403 Never Client "the declared intent does not cover what the tool does"; "declare the intent the tool really has";
    DecisionStale = "POL-005" Policy 503 Later Client "the decision grew too old before the call could start"; "retry";
    ExternalDenied = "POL-006" Policy 403 Never Operator "the external policy service denies this call"; "ask the operator of that service if this is wrong";
    ExternalUnavailable = "POL-007" Policy 503 Later Operator "the external policy service gave no usable answer"; "try again later";

    BudgetExceeded = "BUD-001" Budget 429 Later Human "a budget would be exceeded"; "wait for the window to pass or raise the budget";
    AssetUnknown = "BUD-002" Budget 403 Never Operator "the asset has no reference rate"; "configure a rate for the asset";
    RateLimited = "BUD-003" Budget 429 Later Client "too many requests"; "slow down";

    UpstreamUnreachable = "UPS-001" Upstream 502 Later Operator "the server behind cannot be reached"; "try again later";
    UpstreamTimeout = "UPS-002" Upstream 504 Never Operator "the server behind did not answer in time; the call is in doubt"; "do not repeat the call; the operator resolves it";
    UpstreamBroken = "UPS-003" Upstream 502 Never Operator "the server behind answered with nonsense; the call is in doubt"; "do not repeat the call; the operator resolves it";
    ResultTooLarge = "UPS-004" Upstream 502 Never Operator "the result is larger than the limit"; "ask for less, or raise the limit";
    ResultWithheld = "UPS-005" Upstream 402 AfterAction Client "the result is withheld because the payment did not settle"; "check the paying account and call again";
    PriceChanged = "UPS-006" Upstream 409 AfterAction Client "the server behind asks another price than was quoted"; "repeat the call: the new price is quoted, and what it needs is asked anew";
    PriceUnusable = "UPS-007" Upstream 502 Never Operator "the server behind asks for no payment that the organisation makes"; "tell the operator: the tool is set to be priced by its server";
    PurchaseRefused = "UPS-008" Upstream 502 Never Operator "the server behind refused the call that it was paid for"; "do not repeat the call where it was charged; the operator takes it up with that server";

    StoreFault = "SYS-001" Fault 503 Later Operator "the ledger cannot take this call right now"; "try again later";
    Overloaded = "SYS-002" Fault 503 Later Client "the gateway is at its limit"; "try again later";
    InternalFault = "SYS-003" Fault 500 Never Operator "the gateway broke"; "tell the operator the call id";
    ShuttingDown = "SYS-004" Fault 503 Later Client "the gateway is shutting down"; "try again";
    InProgress = "SYS-005" Fault 409 Later Client "the same call is still running"; "repeat the same request later; do not pay again";

    AdminInvalid = "ADM-001" Admin 422 Never Client "a member of the request is not acceptable"; "mend the request";
    AdminNotFound = "ADM-002" Admin 404 Never Client "there is nothing of that name"; "list what there is";
    AdminConflict = "ADM-003" Admin 409 Never Client "what was asked does not fit where the thing stands"; "look at its present state";
    SignInNeeded = "ADM-004" Admin 401 AfterAction Human "sign in first"; "sign in at the console, or send an access token for its API";
    RoleMissing = "ADM-005" Admin 403 AfterAction Human "your role does not allow this"; "ask an administrator for a role that allows it";
    FormStale = "ADM-006" Admin 403 AfterAction Human "the form is stale or comes from another site"; "open the page again and send its form";
    SignInFailed = "ADM-007" Admin 403 AfterAction Human "the sign-in did not succeed"; "sign in again";
    KeyReused = "ADM-008" Admin 422 Never Client "the idempotency key was used for another request"; "use a fresh key";
    BundleRefused = "ADM-009" Admin 422 Never Operator "the policy bundle is not accepted; what was in force stays in force"; "mend the bundle and activate it again";
    KeyUnanswered = "ADM-010" Admin 409 Later Client "the first request with this idempotency key has no answer yet"; "repeat it in a moment; if that stays so, look whether it was done and use a fresh key";
    AuthzenInvalid = "ADM-011" Admin 400 Never Client "the request is not one of AuthZEN"; "send what OpenID AuthZEN 1.0 asks for";
    ConfigRefused = "ADM-012" Admin 422 Never Operator "the configuration is not accepted; what was in force stays in force"; "mend the file and reload it, or start the gateway again where that is what the change takes";
}

impl Code {
    /// Stable text.
    #[must_use]
    pub const fn text(self) -> &'static str {
        self.row().text
    }

    /// The code of a stable text.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.text() == text)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.text())
    }
}

/// One typed fact beside the public sentence; never a secret or an argument value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Its name in problem details.
    pub name: &'static str,
    /// Its value.
    pub value: String,
}

/// One refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(Box<Body>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Body {
    code: Code,
    charged: Charged,
    lights: Lights,
    facts: Vec<Fact>,
    call: Option<CallId>,
    next_url: Option<String>,
    expires: Option<UnixMs>,
    retry_after_s: Option<u64>,
}

impl Refusal {
    /// A refusal that cost nothing.
    #[must_use]
    pub fn new(code: Code) -> Self {
        Self(Box::new(Body {
            code,
            charged: Charged::No,
            lights: Lights::DARK,
            facts: Vec::new(),
            call: None,
            next_url: None,
            expires: None,
            retry_after_s: None,
        }))
    }

    /// Adds a fact.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.0.facts.push(Fact { name, value: value.to_string() });
        self
    }

    /// Says whether money moved.
    #[must_use]
    pub fn charged(mut self, charged: Charged) -> Self {
        self.0.charged = charged;
        self
    }

    /// Says how the proofs stand.
    #[must_use]
    pub fn lights(mut self, lights: Lights) -> Self {
        self.0.lights = lights;
        self
    }

    /// Names the call.
    #[must_use]
    pub fn call(mut self, call: CallId) -> Self {
        self.0.call = Some(call);
        self
    }

    /// Says where to act, and until when.
    #[must_use]
    pub fn next(mut self, url: impl Into<String>, expires: Option<UnixMs>) -> Self {
        self.0.next_url = Some(url.into());
        self.0.expires = expires;
        self
    }

    /// Says when to retry, in seconds.
    #[must_use]
    pub fn retry_after_s(mut self, seconds: u64) -> Self {
        self.0.retry_after_s = Some(seconds);
        self
    }

    /// Its code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// Whether money moved.
    #[must_use]
    pub fn is_charged(&self) -> Charged {
        self.0.charged
    }

    /// How the proofs stand.
    #[must_use]
    pub fn proofs(&self) -> Lights {
        self.0.lights
    }

    /// The facts.
    #[must_use]
    pub fn facts(&self) -> &[Fact] {
        &self.0.facts
    }

    /// The problem details object (RFC 9457), also used in MCP `_meta`.
    #[must_use]
    pub fn problem(&self) -> Problem<'_> {
        let row = self.0.code.row();
        Problem {
            kind: format!("urn:countersign:refusal:{}", row.text),
            title: row.title,
            status: row.status,
            code: row.text,
            retryable: row.retry != Retry::Never,
            retry: row.retry,
            retry_after: self.0.retry_after_s,
            charged: self.0.charged,
            proofs: self.0.lights,
            next: Next {
                actor: row.actor,
                action: row.next,
                url: self.0.next_url.as_deref(),
                expires: self.0.expires.map(UnixMs::rfc3339),
            },
            call_id: self.0.call,
            facts: self.0.facts.iter().map(|f| (f.name, f.value.as_str())).collect(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = self.0.code.row();
        write!(f, "{}: {}", row.text, row.title)?;
        for fact in &self.0.facts {
            write!(f, "; {}: {}", fact.name, fact.value)?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

impl From<Code> for Refusal {
    fn from(code: Code) -> Self {
        Self::new(code)
    }
}

/// RFC 9457 problem details with our members.
#[derive(Clone, Debug, Serialize)]
pub struct Problem<'a> {
    /// Problem type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Public sentence.
    pub title: &'static str,
    /// HTTP status.
    pub status: u16,
    /// Stable code.
    pub code: &'static str,
    /// Can a retry succeed at all.
    pub retryable: bool,
    /// When.
    pub retry: Retry,
    /// Seconds to wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// Did money move.
    pub charged: Charged,
    /// The four lights.
    pub proofs: Lights,
    /// What to do.
    pub next: Next<'a>,
    /// The call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call_id: Option<CallId>,
    /// Typed facts.
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub facts: std::collections::BTreeMap<&'static str, &'a str>,
}

/// What to do next.
#[derive(Clone, Debug, Serialize)]
pub struct Next<'a> {
    /// Who must act.
    pub actor: Actor,
    /// The action.
    pub action: &'static str,
    /// Where.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<&'a str>,
    /// Until when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn texts_are_unique_and_resolve() {
        let texts: BTreeSet<_> = Code::ALL.iter().map(|code| code.text()).collect();
        assert_eq!(texts.len(), Code::ALL.len());
        for code in Code::ALL {
            assert_eq!(Code::from_text(code.text()), Some(*code));
        }
    }
}
