//! Writes the leaf of a record: the path of every call comes through here six times.

use super::{
    AmountEntry, ProofEntries, ProofEntry, RECORD_VERSION, RecordDraft, Subject, ToolEntry,
};
use crate::{
    digest::{Digest, lower_hex},
    wire::json::push_quoted,
};
use std::fmt::Display;

/// The canonical JSON of a record that was checked.
// INVARIANT: members are written in the order of their names (RFC 8785 §3.2.3), as `Form` knows them.
pub(super) fn write(draft: &RecordDraft, seq: u64, prev: Option<Digest>) -> Vec<u8> {
    let call = draft.call();
    let tenant = match &draft.subject {
        Subject::Call(call) => Some(&call.tenant),
        Subject::Tenant(tenant) => Some(tenant),
        Subject::Deployment => None,
    };
    let mut out = Writer(Vec::with_capacity(1536));
    out.open();
    out.text("agent", call.and_then(|call| call.agent.as_deref()));
    out.amount(draft.amount.as_ref());
    out.digest("arguments", call.and_then(|call| call.arguments));
    out.number("attempt", call.map(|call| call.attempt));
    out.plain("call", call.map(|call| call.call));
    out.digest("call_digest", call.map(|call| call.call_digest));
    out.plain("decision", draft.decision);
    out.digest("delegator", call.and_then(|call| call.delegator));
    out.detail(draft);
    out.word("kind", Some(draft.kind.name()));
    out.word("outcome", draft.outcome.map(super::Outcome::name));
    out.digest("policy", draft.policy);
    out.digest("prev", prev);
    out.proofs(draft.proofs.as_ref());
    out.plain("quote", draft.quote);
    out.list("records", &draft.records);
    out.text("refusal", draft.refusal.as_deref());
    out.digest("result", draft.result);
    out.number("seq", Some(seq));
    out.text("tenant", tenant.map(|tenant| &**tenant));
    out.word("time", Some(&draft.time.rfc3339()));
    out.number("time_ms", Some(draft.time.0));
    out.tool(call.and_then(|call| call.tool.as_ref()));
    out.text("trace", call.and_then(|call| call.trace.as_deref()));
    out.list("transfers", &draft.transfers);
    out.number("v", Some(RECORD_VERSION));
    out.close();
    out.0
}

/// One object after the other, member by member; absent members are omitted.
struct Writer(Vec<u8>);

impl Writer {
    fn open(&mut self) {
        self.0.push(b'{');
    }

    fn close(&mut self) {
        self.0.push(b'}');
    }

    /// The name of the next member: plain ASCII.
    fn name(&mut self, name: &str) {
        if self.0.last() != Some(&b'{') {
            self.0.push(b',');
        }
        self.0.push(b'"');
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    fn text(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.name(name);
            push_quoted(&mut self.0, value);
        }
    }

    /// A word in which nothing is escaped.
    fn word(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.name(name);
            self.0.push(b'"');
            self.0.extend_from_slice(value.as_bytes());
            self.0.push(b'"');
        }
    }

    /// A value whose text is one in which nothing is escaped.
    fn plain(&mut self, name: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.name(name);
            self.push_plain(value);
        }
    }

    fn push_plain(&mut self, value: impl Display) {
        self.0.push(b'"');
        self.push(value);
        self.0.push(b'"');
    }

    fn push(&mut self, value: impl Display) {
        use std::io::Write as _;
        // INVARIANT: writing to memory does not fail.
        let _written = write!(self.0, "{value}");
    }

    fn digest(&mut self, name: &str, digest: Option<Digest>) {
        if let Some(digest) = digest {
            self.name(name);
            let mut text = [0; 64];
            lower_hex(digest.as_bytes(), &mut text);
            self.0.push(b'"');
            self.0.extend_from_slice(&text);
            self.0.push(b'"');
        }
    }

    fn number(&mut self, name: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.name(name);
            self.push(value);
        }
    }

    fn list(&mut self, name: &str, items: &[impl Display]) {
        if items.is_empty() {
            return;
        }
        self.name(name);
        for (index, item) in items.iter().enumerate() {
            self.0.push(if index == 0 { b'[' } else { b',' });
            self.push_plain(item);
        }
        self.0.push(b']');
    }

    fn detail(&mut self, draft: &RecordDraft) {
        if draft.detail.is_empty() {
            return;
        }
        self.name("detail");
        self.open();
        for (name, value) in &*draft.detail {
            self.text(name, Some(value));
        }
        self.close();
    }

    fn amount(&mut self, amount: Option<&AmountEntry>) {
        let Some(amount) = amount else { return };
        self.name("amount");
        self.open();
        self.text("asset", Some(&amount.asset.0));
        self.plain("micros", Some(amount.micros.0));
        self.plain("minor", Some(amount.minor));
        self.close();
    }

    fn proofs(&mut self, proofs: Option<&ProofEntries>) {
        let Some(proofs) = proofs else { return };
        self.name("proofs");
        self.open();
        self.proof("authorization", &proofs.authorization);
        self.proof("consent", &proofs.consent);
        self.proof("identity", &proofs.identity);
        self.proof("payment", &proofs.payment);
        self.close();
    }

    fn proof(&mut self, name: &str, proof: &ProofEntry) {
        self.name(name);
        self.open();
        self.text("ref", proof.reference.as_deref());
        self.word("state", Some(proof.state.name()));
        self.close();
    }

    fn tool(&mut self, tool: Option<&ToolEntry>) {
        let Some(tool) = tool else { return };
        self.name("tool");
        self.open();
        self.digest("definition", tool.definition);
        self.text("name", Some(&tool.name));
        self.text("server", Some(&tool.server));
        self.close();
    }
}
