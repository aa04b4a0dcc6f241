//! The request that somebody tries: the form, and the question that it asks.

use crate::prove::policy::Engine;
use countersign_core::{
    money::{Micros, parse_micros},
    policy::{Intent, ProofState, Question, Risk, Session, Tables, Tier, Trust},
};
use maud::{Markup, html};
use std::{collections::BTreeMap, sync::Arc};

/// What was typed, by field.
pub(super) struct Tried(BTreeMap<String, String>);

/// The longest text of one field, in bytes.
const TEXT_MAX: usize = 512;
/// Roles at most.
const ROLES_MAX: usize = 32;

impl Tried {
    pub(super) fn of(pairs: Vec<(String, String)>) -> Self {
        Self(pairs.into_iter().collect())
    }

    /// Whether the form was sent.
    pub(super) fn is_asked(&self) -> bool {
        self.0.contains_key("tool")
    }

    fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", |text| text.trim())
    }

    /// Whether a box was ticked; before the form is sent, as `unasked` says.
    fn is_ticked(&self, name: &str, unasked: bool) -> bool {
        if self.is_asked() { self.0.contains_key(name) } else { unasked }
    }

    /// What it asks, with all else as it is for a harmless call.
    ///
    /// # Errors
    /// Which field is not as it should be.
    pub(super) fn question(&self, tenant: &str, tables: &Tables) -> Result<Question, String> {
        if self.0.values().any(|text| text.len() > TEXT_MAX) {
            return Err(format!("A field takes at most {TEXT_MAX} bytes."));
        }
        let (server, tool) =
            self.text("tool").split_once('/').ok_or("Write the tool as server/tool.")?;
        let roles: Vec<Arc<str>> = self.text("roles").split_whitespace().map(Arc::from).collect();
        if roles.len() > ROLES_MAX {
            return Err(format!("At most {ROLES_MAX} roles."));
        }
        let tier = Tier::from_text(self.text("tier")).ok_or("The tier is T0, T1, T2 or T3.")?;
        let intent = Intent::from_text(self.text("intent")).ok_or("There is no such intent.")?;
        let price = self.money("price")?.unwrap_or_default();
        let consent =
            ProofState::ALL.into_iter().find(|state| state.text() == self.text("consent"));
        let ticked = |name| self.is_ticked(name, false);
        let (least, is_reversible) = (Tier::T0, ticked("reversible"));
        let all = Trust { agent: tier, human: tier, consent: tier, server: tier, ..nobody(least) };
        let fulfilled =
            ["human_confirm", "m_of_n", "step_up"].into_iter().filter(|word| ticked(word));
        Ok(Question {
            tenant: tenant.into(),
            agent: self.text("agent").into(),
            is_human: ticked("human"),
            roles,
            server: server.into(),
            tool: tool.into(),
            sensitivity: self.number("sensitivity", 3)?,
            is_reversible,
            is_open_world: ticked("open_world"),
            intent,
            derived: intent,
            price,
            price_text: price.to_string(),
            consent: consent.ok_or("Consent is valid, not required or missing.")?,
            remaining: self.money("remaining")?,
            risk: Risk { score: self.number("risk", 100)?, ..Risk::default() },
            trust: tables.tiers.allow(all, intent, is_reversible, price),
            session: Session {
                id: None,
                is_tainted: ticked("tainted"),
                is_private: ticked("private"),
                calls_last_minute: 0,
            },
            fulfilled: fulfilled.map(Arc::from).collect(),
            ..Engine::sample_question()
        })
    }

    fn number(&self, name: &str, most: u8) -> Result<u8, String> {
        let number = self.text(name).parse().ok().filter(|number| *number <= most);
        number.ok_or_else(|| format!("The {name} is a whole number from 0 to {most}."))
    }

    fn money(&self, name: &str) -> Result<Option<Micros>, String> {
        match self.text(name) {
            "" => Ok(None),
            text => {
                let text = text.trim_end_matches("USD").trim_end();
                let micros = parse_micros(text);
                micros.map(Some).map_err(|_| format!("The {name} is an amount such as 0.05."))
            }
        }
    }

    /// The form, as it was filled in.
    pub(super) fn form(&self, tools: &[String]) -> Markup {
        let first = tools.first().map_or("server/tool", String::as_str);
        html! {
            form.try method="get" action="/policy#answer" {
                div.fields {
                    (self.field("tool", "Tool", first, Some("tools")))
                    datalist id="tools" { @for tool in tools { option value=(tool) {} } }
                    (self.choice("intent", "It does", "read", &Intent::ALL.map(Intent::text)))
                    (self.field("price", "Price in USD", "0.01", None))
                    (self.choice("consent", "Consent", "valid", &ProofState::ALL.map(ProofState::text)))
                    (self.field("remaining", "Budget left in USD", "", None))
                    (self.field("risk", "Risk, 0 to 100", "0", None))
                    (self.choice("tier", "Least tier", "T3", &Tier::ALL.map(Tier::text)))
                    (self.choice("sensitivity", "Sensitivity", "0", &["0", "1", "2", "3"]))
                    (self.field("agent", "Agent", "agent", None))
                    (self.field("roles", "Person's roles", "", None))
                }
                fieldset {
                    legend { "And" }
                    (self.tick("human", "acts for a person", true))
                    (self.tick("reversible", "can be undone", false))
                    (self.tick("open_world", "deals with the outside", true))
                    (self.tick("tainted", "session saw what anybody can write", false))
                    (self.tick("private", "session saw private data", false))
                    (self.tick("human_confirm", "a person has confirmed", false))
                    (self.tick("m_of_n", "several people have", false))
                    (self.tick("step_up", "signed in anew", false))
                }
                p { button type="submit" { "What would it say?" } }
            }
        }
    }

    fn value<'a>(&'a self, name: &str, unasked: &'a str) -> &'a str {
        self.0.get(name).map_or(unasked, String::as_str)
    }

    fn field(&self, name: &str, label: &str, unasked: &str, list: Option<&str>) -> Markup {
        html! {
            div {
                label for={ "try-" (name) } { (label) }
                input id={ "try-" (name) } name=(name) value=(self.value(name, unasked)) list=[list]
                    maxlength=(TEXT_MAX) autocomplete="off";
            }
        }
    }

    fn choice(&self, name: &str, label: &str, unasked: &str, all: &[&str]) -> Markup {
        let chosen = self.value(name, unasked);
        html! {
            div {
                label for={ "try-" (name) } { (label) }
                select id={ "try-" (name) } name=(name) {
                    @for one in all {
                        option value=(one) selected[*one == chosen] { (one.replace('_', " ")) }
                    }
                }
            }
        }
    }

    fn tick(&self, name: &str, label: &str, unasked: bool) -> Markup {
        html! {
            label.tick {
                input type="checkbox" name=(name) value="yes" checked[self.is_ticked(name, unasked)];
                " " (label)
            }
        }
    }
}

/// What a tier allows is filled in by the tables.
const fn nobody(least: Tier) -> Trust {
    Trust {
        agent: least,
        human: least,
        consent: least,
        server: least,
        may: false,
        price_cap: Micros(0),
        max_risk: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(changes: &[(&str, &str)]) -> Result<Question, String> {
        let usual = [
            ("tool", "files/read"),
            ("intent", "read"),
            ("tier", "T3"),
            ("consent", "valid"),
            ("sensitivity", "0"),
            ("risk", "0"),
            ("human", "yes"),
        ];
        let pairs = usual.iter().chain(changes);
        let tried = Tried::of(pairs.map(|(name, text)| ((*name).into(), (*text).into())).collect());
        tried.question("acme", Engine::builtin().unwrap().tables())
    }

    #[test]
    fn what_was_typed_is_what_is_asked() {
        let engine = Engine::builtin().unwrap();
        let says = |changes: &[(&str, &str)]| {
            crate::prove::policy::answer_text(&engine.decide(&asked(changes).unwrap()).answer)
        };
        assert_eq!(says(&[]), "allow");
        assert_eq!(says(&[("price", "2")]), "challenge for human_confirm");
        assert_eq!(says(&[("price", "2 USD"), ("human_confirm", "yes")]), "allow");
        assert_eq!(says(&[("price", "2"), ("remaining", "1.5")]), "deny");
        assert_eq!(says(&[("tier", "T1"), ("intent", "write")]), "deny");
        assert_eq!(says(&[("risk", "95")]), "deny");
        let question = asked(&[("roles", " finance  team:pay ")]).unwrap();
        assert_eq!((question.roles.len(), &*question.tenant), (2, "acme"));
    }

    #[test]
    fn what_cannot_be_asked_is_said() {
        let wrong = |name: &str, text: &str| asked(&[(name, text)]).unwrap_err();
        assert_eq!(wrong("tool", "read"), "Write the tool as server/tool.");
        assert_eq!(wrong("price", "much"), "The price is an amount such as 0.05.");
        assert_eq!(wrong("risk", "101"), "The risk is a whole number from 0 to 100.");
        assert_eq!(wrong("tier", "T9"), "The tier is T0, T1, T2 or T3.");
        assert_eq!(wrong("intent", ""), "There is no such intent.");
        assert!(wrong("agent", &"x".repeat(600)).contains("512"));
    }
}
