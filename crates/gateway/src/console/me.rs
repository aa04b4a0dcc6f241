//! What is linked to whoever looks: their wallets, linked by a signature, and their keys.
//!
//! INVARIANT: a page links and ends what is the visitor's own, and shows nobody else's.

use super::{
    Console,
    page::{Failed, Page, framed, heads, key_field, nothing},
    sign_in::go,
    visitor::{Posted, Visitor},
};
use crate::admin::{denied::Denied, form::WalletProof, people};
use axum::{
    extract::{Path, State},
    response::Response,
};
use countersign_core::{
    person::{Link, LinkKind, Person},
    refusal::Code,
};
use maud::{Markup, html};
use std::sync::Arc;

/// Their wallets and keys.
pub(super) async fn show(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
) -> Result<Page, Failed> {
    let person = person(&visitor)?;
    Ok(page(&console, &visitor, &person, &ask_form(&visitor)))
}

/// The message that a wallet signs to be linked to them.
pub(super) async fn ask(
    State(console): State<Arc<Console>>,
    posted: Posted,
) -> Result<Page, Failed> {
    let visitor = &posted.visitor;
    let person = person(visitor)?;
    let wallet = people::wallet(&console.gate(), &posted.text("address"), None)?;
    let message = console.gate().wallet_message(&person, wallet);
    let form = sign_form(visitor, &message, &wallet.address.to_string());
    Ok(page(&console, visitor, &person, &form))
}

/// Links the wallet that signed.
pub(super) async fn link(
    State(console): State<Arc<Console>>,
    posted: Posted,
) -> Result<Response, Failed> {
    let visitor = &posted.visitor;
    let proof = WalletProof {
        tenant: None,
        issuer: None,
        subject: None,
        // A form writes each end of a line as two characters.
        message: posted.text("message").replace("\r\n", "\n"),
        signature: posted.text("signature"),
        name: posted.text("name"),
    };
    people::link(&console.gate(), visitor.actor(), person(visitor)?, proof).await?;
    Ok(go("/me"))
}

/// Ends a wallet's link, or a key.
pub(super) async fn end(
    State(console): State<Arc<Console>>,
    Path((kind, id)): Path<(String, String)>,
    posted: Posted,
) -> Result<Response, Failed> {
    let kind = match &*kind {
        "wallets" => LinkKind::Wallet,
        "keys" => LinkKind::Key,
        _ => return Err(Denied::not_found("page").into()),
    };
    let own = console.gate().store.link(kind, &id);
    let is_own = own.is_some_and(|link| posted.visitor.actor().is_person(&link.person));
    if !is_own {
        return Err(Denied::not_found(kind.text()).into());
    }
    people::end(&console.gate(), posted.visitor.actor(), &id, kind).await?;
    Ok(go("/me"))
}

fn person(visitor: &Visitor) -> Result<Person, Failed> {
    Ok(visitor.actor().as_person().ok_or(Denied::from(Code::SignInNeeded))?)
}

fn page(console: &Console, visitor: &Visitor, person: &Person, form: &Markup) -> Page {
    let of = |kind| console.gate().store.links_of(kind, person);
    let (wallets, keys) = (of(LinkKind::Wallet), of(LinkKind::Key));
    let content = html! {
        div.head {
            h1 { "Yours" }
            p.lead { "Wallets that may pay where a tool or a grant wants one of yours, and keys that sign for you." }
        }
        h2 { "Wallets" }
        @if wallets.is_empty() {
            (nothing("No wallet is linked to you", &html! {
                p { "Linking one moves no money: the wallet signs a message that says whose it is." }
            }))
        } @else { (table(visitor, "Wallets", "wallets", &wallets)) }
        (form)
        h2 { "Keys" }
        @if keys.is_empty() {
            p { "None. An administrator registers one with " code { "countersign people key add" } "." }
        } @else { (table(visitor, "Keys", "keys", &keys)) }
    };
    framed(visitor, "/me", "Yours", &content)
}

fn table(visitor: &Visitor, label: &str, path: &str, links: &[Arc<Link>]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label=(label) {
            table {
                (heads(&["Which", "Name", "Since", "Act"]))
                tbody {
                    @for link in links {
                        @let is_wallet = link.kind == LinkKind::Wallet;
                        @let shown = if is_wallet { &link.public } else { &link.id };
                        tr {
                            th scope="row" { code.wrap { (shown) } }
                            td { (link.name) }
                            td { (super::page::moment(link.at)) }
                            td {
                                form.inline method="post" action={ "/me/" (path) "/" (link.id) "/end" } {
                                    (key_field(visitor))
                                    button.quiet type="submit" aria-label={ "Unlink " (shown) } { "Unlink" }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn ask_form(visitor: &Visitor) -> Markup {
    html! {
        form.grant method="post" action="/me/wallets/ask" {
            (key_field(visitor))
            h2 { "Link a wallet" }
            div.fields {
                div.wide {
                    label for="address" { "Its address" }
                    input id="address" name="address" required pattern="0x[0-9a-fA-F]{40}"
                        autocomplete="off" placeholder="0x…";
                }
            }
            button id="ask" type="submit" { "Show the message to sign" }
        }
    }
}

fn sign_form(visitor: &Visitor, message: &str, address: &str) -> Markup {
    html! {
        form.grant method="post" action="/me/wallets" {
            (key_field(visitor))
            h2 { "Sign this with the wallet" }
            p { "Let the wallet sign this text as it is (“sign message”, " code { "personal_sign" } "), within ten minutes, and paste the signature." }
            label for="message" { "Message" }
            textarea id="message" name="message" rows="12" readonly { "\n" (message) }
            div.fields {
                div.wide {
                    label for="signature" { "Signature" }
                    input id="signature" name="signature" required autocomplete="off" placeholder="0x…";
                }
                div {
                    label for="name" { "What you call it" }
                    input id="name" name="name" maxlength="100";
                }
            }
            button.yes id="link" type="submit" { "Link it" }
            " " button.quiet id="sign" type="button" hidden data-wallet=(address) { "Sign with this browser's wallet" }
        }
    }
}
