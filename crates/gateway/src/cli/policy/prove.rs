//! `policy prove`: invariants, for every request there can be.

use super::{read, refused};
use crate::{
    cli::{audit::read_text, out::Out, stop::Stop},
    prove::policy::{BUILTIN_INVARIANTS, Engine, Proof, Unproved, prove},
};
use std::path::{Path, PathBuf};

/// What to prove of which bundle.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Prove {
    /// The bundle's directory.
    dir: PathBuf,
    /// Cedar policies in place of the usual invariants: a `forbid` says what is never allowed, a
    /// `permit` what holds of everything that is allowed; `-` reads the standard input.
    #[arg(long, value_name = "FILE")]
    invariants: Option<PathBuf>,
}

impl Prove {
    /// Does it.
    pub(super) async fn run(self, out: Out) -> Result<(), Stop> {
        let bundle = read(&self.dir)?.unsealed();
        let engine = Engine::of(&bundle).map_err(|error| refused(error.into()))?;
        let text = self.invariants.as_deref().map(|file: &Path| read_text(file)).transpose()?;
        let text = text.as_deref().unwrap_or(BUILTIN_INVARIANTS);
        let proofs = prove(&bundle, &engine, text).await.map_err(stop)?;
        for proof in &proofs {
            out.item(proof, told)?;
        }
        if proofs.iter().all(|proof| proof.holds) { Ok(()) } else { Err(Stop::failed()) }
    }
}

fn told(proof: &Proof) -> String {
    let id = &proof.invariant;
    match (&proof.counterexample, &proof.policy) {
        _ if proof.holds => format!("proved   {id}"),
        (Some(found), _) => {
            let how = if found.confirmed {
                "allowed all the same"
            } else {
                "allowed, though no call of the gateway has this form"
            };
            format!("REFUTED  {id}: {how}:\n  countersign policy explain DIR '{}'", found.question)
        }
        (None, policy) => {
            format!("REFUTED  {id}: `{}` can fail", policy.as_deref().unwrap_or("a policy"))
        }
    }
}

fn stop(error: Unproved) -> Stop {
    match error {
        Unproved::NoSolver(why) => {
            Stop::unreachable(format_args!("the solver cvc5 cannot be started: {why}"))
                .coded("SOLVER-MISSING")
                .next(
                    "install cvc5 1.3 or later (https://github.com/cvc5/cvc5/releases) on the \
                     PATH, or name it in the environment as CVC5",
                )
        }
        Unproved::Invariants(why) => Stop::usage(format_args!("the invariants: {why}"))
            .coded("INVARIANTS-UNUSABLE")
            .next("write them as Cedar policies for the bundle's schema, each with an `@id`"),
        Unproved::Solver(why) => Stop::unreachable(format_args!("cvc5 gave no answer: {why}"))
            .coded("SOLVER-FAILED")
            .next("look whether it is cvc5 1.3 or later; a smaller bundle proves faster"),
    }
}
