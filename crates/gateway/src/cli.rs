//! The command line: what was typed, and which command it means.
//!
//! Owns the flags that all commands share and the way to what they need: the configuration, the
//! running gateway. Commands that change state go through the admin API, so that whoever runs
//! them is recorded; what concerns the log works offline.

mod about;
mod approvals;
mod audit;
mod budget;
mod call;
mod connect;
mod credential;
mod doctor;
mod fsck;
mod grant;
mod init;
mod keys;
mod ledger;
mod lightning;
mod link;
mod out;
mod people;
mod policy;
mod progress;
mod quote;
mod receipt;
mod reload;
mod sandbox;
mod serve;
mod stop;
mod tools;
mod trust;

pub use out::Out;
pub use stop::Stop;

use crate::config::{self, Config, Warning};
use clap::{Parser, Subcommand};
use link::Link;
use std::path::PathBuf;
use tokio::runtime::Builder;

const AFTER_HELP: &str = "\
Exit codes: 0 done; 1 done, and the answer is bad (the tool failed, a check found something);
2 usage or configuration; 10 payment, 11 identity, 12 consent, 13 policy, 14 budget,
15 the far side, 16 money may have moved: do not pay again, 17 the request was refused,
18 the data directory cannot be used; 19 the gateway cannot serve.";

/// What was typed.
#[derive(Debug, Parser)]
#[command(name = "countersign", version, after_help = AFTER_HELP, max_term_width = 100)]
#[command(about = "Payment is not permission: a paid MCP tool call runs only when identity, \
                   consent, payment and authorization align.")]
pub struct Cli {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    command: Command,
}

/// Flags of all commands.
#[derive(Clone, Debug, clap::Args)]
struct Shared {
    /// Configuration file.
    #[arg(long, global = true, value_name = "FILE", default_value = "./countersign.yaml")]
    #[arg(env = "COUNTERSIGN_CONFIG", hide_env_values = true)]
    config: PathBuf,
    /// Admin socket of the running gateway; that of the configuration when absent.
    #[arg(long, global = true, value_name = "PATH")]
    #[arg(env = "COUNTERSIGN_SOCKET", hide_env_values = true)]
    socket: Option<PathBuf>,
    /// JSON instead of tables; also when the output is not a terminal.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the four proofs vetoing and aligning, with sandbox money.
    Demo {
        /// End after the calls; status 0 only if each came out as it should.
        #[arg(long)]
        once: bool,
    },
    /// Write a commented configuration that runs on this machine with play money.
    Init(init::Init),
    /// Run the gateway.
    Serve,
    /// Run the play-money parts that `init`'s configuration expects beside the gateway.
    Sandbox(sandbox::Sandbox),
    /// Say everything that is wrong with the configuration, or what it means.
    Check,
    /// Call a tool, and pay for it from a wallet when that is asked.
    Call(call::Call),
    /// Serve a desktop MCP client over stdio: pass everything on to a server, and pay for calls.
    Connect(connect::Connect),
    /// Ask what a call would cost, without paying.
    Quote(quote::Quote),
    /// People's standing consents.
    #[command(subcommand)]
    Grant(grant::Grant),
    /// What is linked to people: keys that they sign with, wallets that they pay from.
    #[command(subcommand)]
    People(people::People),
    /// Calls that wait for a person.
    #[command(subcommand)]
    Approvals(approvals::Approvals),
    /// Limits on spending.
    #[command(subcommand)]
    Budget(budget::Budget),
    /// Money: accounts, doubts, refunds.
    #[command(subcommand)]
    Ledger(ledger::Ledger),
    /// Lightning nodes: balances, how payments go, and room to receive.
    #[command(subcommand)]
    Lightning(lightning::Lightning),
    /// Calls as the gateway keeps them.
    #[command(subcommand)]
    Calls(ledger::Calls),
    /// What tools say of themselves: pinned, changed, approved.
    #[command(subcommand)]
    Tools(tools::Tools),
    /// How far agents, people and servers are trusted.
    #[command(subcommand)]
    Trust(trust::Trust),
    /// L402 credentials: read, narrow, list, end.
    #[command(subcommand)]
    Credential(credential::Credential),
    /// The log: show it, verify it, prove a call from it.
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Policy bundles: check, test, sign, put in force.
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Signed receipts of calls and grants.
    #[command(subcommand)]
    Receipt(receipt::Receipt),
    /// The gateway's keys.
    #[command(subcommand)]
    Keys(keys::Keys),
    /// How the running gateway stands.
    Status,
    /// Have the running gateway read its configuration again: all of it takes effect, or nothing.
    Reload,
    /// Look at everything that a gateway needs, and say what to do about it.
    Doctor,
    /// Check the whole database against the ledger's invariants; also beside a running gateway.
    Fsck,
    /// Print the JSON Schema of the configuration.
    Schema {
        /// The OpenAPI document of the admin API instead.
        #[arg(long)]
        api: bool,
    },
    /// List every refusal, or show one with what to do next.
    Refusals {
        /// Its code, such as `PAY-003`.
        code: Option<String>,
    },
}

impl Cli {
    /// The form of the output that was asked for.
    #[must_use]
    pub fn out(&self) -> Out {
        Out::new(self.shared.json)
    }

    /// Does what was typed. Not `async`: whoever awaits a future compiles it, and everything is
    /// awaited here.
    ///
    /// # Errors
    /// The end of a command that could not do its work, or found something wrong.
    pub fn run(self) -> Result<(), Stop> {
        let runtime = Builder::new_multi_thread().enable_all().build();
        runtime.map_err(anyhow::Error::from)?.block_on(self.execute())
    }

    async fn execute(self) -> Result<(), Stop> {
        let (shared, out) = (&self.shared, self.out());
        match self.command {
            Command::Demo { once } => serve::demo(once).await,
            Command::Init(init) => init.run(out),
            Command::Serve => serve::run(shared).await,
            Command::Sandbox(sandbox) => sandbox.run().await,
            Command::Check => about::check(&shared.config, out),
            Command::Call(call) => call.run(shared, out).await,
            Command::Connect(connect) => connect.run().await,
            Command::Quote(quote) => quote.run(out).await,
            Command::Grant(grant) => grant.run(&shared.link()?, out).await,
            Command::People(people) => people.run(&shared.link()?, out).await,
            Command::Approvals(approvals) => approvals.run(&shared.link()?, out).await,
            Command::Budget(budget) => budget.run(&shared.link()?, out).await,
            Command::Ledger(ledger) => ledger.run(&shared.link()?, out).await,
            Command::Lightning(lightning) => lightning.run(&shared.link()?, out).await,
            Command::Calls(calls) => calls.run(&shared.link()?, out).await,
            Command::Tools(tools) => tools.run(&shared.link()?, out).await,
            Command::Trust(trust) => trust.run(&shared.link()?, out).await,
            Command::Credential(credential) => credential.run(shared, out).await,
            Command::Audit(audit) => audit.run(shared, out).await,
            Command::Policy(policy) => policy.run(shared, out).await,
            Command::Receipt(receipt) => receipt.run(shared, out),
            Command::Keys(keys) => keys.run(shared, out),
            Command::Status => about::status(&shared.link()?, out).await,
            Command::Reload => reload::run(shared, out).await,
            Command::Doctor => doctor::run(shared, out).await,
            Command::Fsck => fsck::run(shared, out),
            Command::Schema { api } => about::schema(api),
            Command::Refusals { code } => about::refusals(code.as_deref(), out),
        }
    }
}

impl Shared {
    /// The configuration, its warnings said.
    fn load(&self) -> Result<Config, Stop> {
        let (config, warnings) = self.load_quietly()?;
        for warning in warnings {
            out::note(&format!("warning: {warning}"));
        }
        Ok(config)
    }

    fn load_quietly(&self) -> Result<(Config, Vec<Warning>), Stop> {
        config::load(&self.config).map_err(|errors| {
            let stop = Stop::usage(errors).coded("CONFIG");
            if self.config.exists() { stop } else { stop.next("write one with `countersign init`") }
        })
    }

    /// The way to the running gateway. With `--socket` no configuration is read, so that whoever
    /// approves needs none of its secrets.
    fn link(&self) -> Result<Link, Stop> {
        match &self.socket {
            Some(socket) => Ok(Link::new(socket)),
            None => Ok(Link::new(&self.load_quietly()?.0.admin_socket)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;
    use expect_test::{expect, expect_file};

    #[test]
    fn the_flags_fit_together() {
        Cli::command().debug_assert();
    }

    /// `UPDATE_EXPECT=1` writes it anew.
    #[test]
    fn help_is_as_documented() {
        let mut text = String::new();
        let mut command = Cli::command();
        command.build();
        help(&mut command, &mut text);
        expect_file!["cli/help.txt"].assert_eq(&text);
    }

    fn help(command: &mut clap::Command, text: &mut String) {
        let is_first = text.is_empty();
        text.push_str(&format!("$ {} --help\n", command.get_bin_name().unwrap_or("countersign")));
        // Flags of all commands are shown once.
        let shared = ["--config", "--socket", "--json", "-h, --help"];
        let is_shared = |line: &&str| {
            let line = line.trim_start();
            !is_first && shared.iter().any(|flag| line.starts_with(flag))
        };
        let shown = command.render_help().to_string();
        for line in shown.lines().filter(|line| !is_shared(line)) {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text.push('\n');
        for sub in command.get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
            help(sub, text);
        }
    }

    #[test]
    fn what_is_not_understood_is_a_usage_error() {
        let refused = |args: &[&str]| {
            let args = std::iter::once(&"countersign").chain(args);
            Cli::try_parse_from(args).map(drop).unwrap_err()
        };
        assert_eq!(refused(&["serv"]).exit_code(), 2);
        assert_eq!(refused(&["grant", "create"]).exit_code(), 2);
        assert_eq!(refused(&["--help"]).exit_code(), 0);
        expect![[r#"
            error: unrecognized subcommand 'serv'

              tip: a similar subcommand exists: 'serve'

            Usage: countersign [OPTIONS] <COMMAND>

            For more information, try '--help'.
        "#]]
        .assert_eq(&refused(&["serv"]).to_string());
    }
}
