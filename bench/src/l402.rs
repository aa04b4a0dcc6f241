//! An L402 credential, alone: what reading and verifying a macaroon of five caveats costs.

use anyhow::{Context as _, Result, anyhow};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use countersign_core::{
    digest::Digest,
    ids::QuoteId,
    time::UnixMs,
    wire::{
        caveat::{Caveat, Restriction},
        l402::{Credential, L402Id},
        macaroon::Macaroon,
    },
};
use std::{
    hint::black_box,
    time::{Duration, Instant},
};

/// Operations of one measurement, and measurements of which the best counts.
const OPERATIONS: u32 = 20_000;
const ROUNDS: usize = 5;
/// The most that verifying may take, in microseconds.
const TARGET_US: f64 = 5.0;

/// Prints both.
pub(crate) fn costs() -> Result<()> {
    let (root_key, preimage) = ([1; 32], [2; 32]);
    let payment_hash = *Digest::of(&preimage).as_bytes();
    let id = L402Id { payment_hash, token_id: [3; 32] };
    let now = UnixMs(1_795_000_000_000);
    let caveats = [
        Caveat::ValidUntil(now.seconds()),
        Caveat::Server("weather".to_owned()),
        Caveat::Tool("get_forecast".to_owned()),
        Caveat::Quote(QuoteId::new(now, [4; 10])),
        Caveat::Uses(10_000),
    ];
    let macaroon = Macaroon::mint(&root_key, &id.encode()).restrict(&caveats);
    let text = format!("{}:{}", STANDARD.encode(macaroon.encode()), hex::encode(preimage));
    let read = || Credential::parse(&text);
    let credential = read().map_err(|error| anyhow!("{error}"))?;
    // As a credential is verified before its uses are counted: signature, preimage, caveats.
    let verify = || {
        let verified = credential.macaroon.verify(black_box(&root_key)).ok()?;
        credential.is_preimage_right().then_some(())?;
        Restriction::of(verified).ok()
    };
    verify().context("the credential is no good")?;
    let us = best_us(verify);
    let met = if us < TARGET_US { "met" } else { "missed" };
    println!("\nread a credential of five caveats: {:.2} µs", best_us(read));
    println!("verify it: {us:.2} µs; target under {TARGET_US} µs: {met}");
    Ok(())
}

fn best_us<T>(mut work: impl FnMut() -> T) -> f64 {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..OPERATIONS {
            black_box(work());
        }
        best = best.min(start.elapsed());
    }
    best.as_secs_f64() * 1e6 / f64::from(OPERATIONS)
}
