//! Conditions a policy may have beyond what Cedar's validator asks.
//!
//! INVARIANT: a linted condition uses no operator that can fail on values of the right type, so
//! that no forbid drops out by an overflow.
//! INVARIANT: `context.fulfilled` stands only in the escape of an annotated forbid.

use super::problem::Flaw;
use cedar_policy::pst::{BinaryOp, Clause, Expr, Literal, Policy, UnaryOp, Var};

/// Operators that cannot fail; whatever is not here is refused, also what Cedar adds later.
const SAFE_BINARY: [BinaryOp; 12] = [
    BinaryOp::Eq,
    BinaryOp::NotEq,
    BinaryOp::Less,
    BinaryOp::LessEq,
    BinaryOp::Greater,
    BinaryOp::GreaterEq,
    BinaryOp::And,
    BinaryOp::Or,
    BinaryOp::In,
    BinaryOp::Contains,
    BinaryOp::ContainsAll,
    BinaryOp::ContainsAny,
];
const SAFE_UNARY: [UnaryOp; 2] = [UnaryOp::Not, UnaryOp::IsEmpty];

/// What is wrong with a policy's conditions; `obligation` is its `@obligation`, if any.
pub(super) fn lint(policy: &cedar_policy::Policy, obligation: Option<&str>) -> Vec<Flaw> {
    let template = match policy.to_pst() {
        Ok(Policy::Static(policy)) => policy.body().clone(),
        Ok(Policy::Linked(_)) => return vec![Flaw::Template],
        Err(error) => return vec![Flaw::Syntax(error.to_string())],
    };
    let is_escape = |clause: &&Clause| obligation.is_some_and(|word| escapes(clause, word));
    let (escape, others): (Vec<_>, Vec<_>) = template.clauses().iter().partition(is_escape);
    let mut flaws: Vec<Flaw> = others.iter().flat_map(|clause| flaws_of(clause)).collect();
    if let Some(word) = obligation
        && escape.is_empty()
    {
        flaws.push(Flaw::NoEscape(word.to_owned()));
    }
    flaws.dedup();
    flaws
}

/// Whether the clause is exactly `unless { context.fulfilled.contains("<word>") }`.
fn escapes(clause: &Clause, word: &str) -> bool {
    let Clause::Unless(condition) = clause else { return false };
    let Expr::BinaryOp { op: BinaryOp::Contains, left, right } = &**condition else {
        return false;
    };
    let Expr::Literal(Literal::String(literal)) = &**right else { return false };
    is_fulfilled(left) && literal.as_str() == word
}

fn flaws_of(clause: &Clause) -> Vec<Flaw> {
    let (Clause::When(condition) | Clause::Unless(condition)) = clause;
    let joined = |mut left: Vec<Flaw>, mut right: Vec<Flaw>| {
        left.append(&mut right);
        left
    };
    condition.reduce(&settled, &joined, Vec::new())
}

/// The verdict on one node, or `None` to look at what is inside it. A forbidden operator ends the
/// search below it: one flaw a place is enough.
fn settled(node: &Expr) -> Option<Vec<Flaw>> {
    if is_fulfilled(node) {
        return Some(vec![Flaw::FulfilledElsewhere]);
    }
    if let Expr::GetAttr { expr, .. } | Expr::HasAttr { expr, .. } = node
        && **expr == Expr::Var(Var::Context)
    {
        return Some(Vec::new());
    }
    if *node == Expr::Var(Var::Context) {
        return Some(vec![Flaw::WholeContext]);
    }
    if let Expr::UnaryOp { op, .. } = node
        && !SAFE_UNARY.contains(op)
    {
        return Some(vec![Flaw::Operator(op.to_string())]);
    }
    if let Expr::BinaryOp { op, .. } = node
        && !SAFE_BINARY.contains(op)
    {
        return Some(vec![Flaw::Operator(op.to_string())]);
    }
    None
}

fn is_fulfilled(node: &Expr) -> bool {
    let Expr::GetAttr { expr, attr } = node else { return false };
    **expr == Expr::Var(Var::Context) && attr.as_str() == "fulfilled"
}
