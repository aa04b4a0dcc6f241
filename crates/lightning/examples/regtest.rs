//! `countersign-regtest`: a Bitcoin chain for tests, in memory, behind the part of Bitcoin Core's
//! JSON-RPC that a Lightning node calls.
//!
//! Its blocks are real (coinbase, merkle root, witness commitment, proof of work at regtest's
//! difficulty) and its scripts are checked by Bitcoin's own consensus code. It has no peers, no
//! replacement, no policy, no reorganisation, no sense of fees, and it forgets all when it ends.
//! FOR TESTS ONLY: it listens on loopback and asks nobody for a password.

use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use bitcoin::{
    Address, Amount, Block, BlockHash, CompactTarget, Network, OutPoint, ScriptBuf, Sequence,
    Transaction, TxIn, TxMerkleNode, TxOut, Txid, Witness,
    absolute::LockTime,
    block::{Header, Version},
    consensus::encode::{deserialize_hex, serialize_hex},
    constants::genesis_block,
    hashes::Hash as _,
    relative, script, transaction,
};
use serde_json::{Value, json};
use std::{
    collections::{HashMap, HashSet},
    io::{self, Write as _},
    net::SocketAddr,
    process::ExitCode,
    str::FromStr as _,
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

const COINBASE_MATURITY: u32 = 100;
const HALVING_BLOCKS: u32 = 150;
const SUBSIDY_SAT: u64 = 50 * 100_000_000;
const REGTEST_BITS: u32 = 0x207f_ffff;
/// Regtest's difficulty, as Core prints it.
const DIFFICULTY: &str = "4.6565423739069247e-10";
/// A sat a virtual byte, in Core's unit.
const FEE_RATE: &str = "0.00001000";

/// Core's codes.
const NOT_FOUND: i64 = -5;
const BAD_PARAMETER: i64 = -8;
const UNDECODABLE: i64 = -22;
const MISSING_INPUTS: i64 = -25;
const REJECTED: i64 = -26;
const KNOWN: i64 = -27;
const NO_METHOD: i64 = -32601;

type Rpc<T> = Result<T, (i64, String)>;

struct Coin {
    output: TxOut,
    height: u32,
    is_coinbase: bool,
}

struct Waiting {
    transaction: Transaction,
    at_s: u64,
    height: u32,
}

struct Chain {
    blocks: Vec<Block>,
    heights: HashMap<BlockHash, u32>,
    coins: HashMap<OutPoint, Coin>,
    mined: HashMap<Txid, Transaction>,
    mempool: Vec<Waiting>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let address = std::env::args().nth(1).and_then(|text| text.parse::<SocketAddr>().ok());
    let Some(address) = address.filter(|address| address.ip().is_loopback()) else {
        say("usage: countersign-regtest 127.0.0.1:PORT   (a chain for tests, loopback only)");
        return ExitCode::from(2);
    };
    let Ok(listener) = tokio::net::TcpListener::bind(address).await else {
        say(&format!("countersign-regtest: {address} cannot be listened on"));
        return ExitCode::FAILURE;
    };
    say(&format!("countersign-regtest: a chain FOR TESTS at http://{address}"));
    let chain = Arc::new(Mutex::new(Chain::new()));
    let routes = Router::new().route("/", post(answer)).with_state(chain);
    if axum::serve(listener, routes).await.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn say(line: &str) {
    let _unheard = writeln!(io::stderr(), "{line}");
}

async fn answer(State(chain): State<Arc<Mutex<Chain>>>, body: String) -> (StatusCode, Json<Value>) {
    let request: Value = serde_json::from_str(&body).unwrap_or_default();
    let id = request.get("id").cloned().unwrap_or_default();
    let method = request.get("method").and_then(Value::as_str).unwrap_or_default();
    let params =
        Params(request.get("params").and_then(Value::as_array).cloned().unwrap_or_default());
    let result = match chain.lock() {
        Ok(mut chain) => chain.call(method, &params),
        Err(_) => Err((REJECTED, "the chain is broken".to_owned())),
    };
    match result {
        Ok(result) => (StatusCode::OK, Json(json!({ "result": result, "error": null, "id": id }))),
        Err((code, message)) => {
            say(&format!("{method}: {code} {message}"));
            let error = json!({ "code": code, "message": message });
            let answer = json!({ "result": null, "error": error, "id": id });
            (StatusCode::INTERNAL_SERVER_ERROR, Json(answer))
        }
    }
}

/// What a method is called with, by place.
struct Params(Vec<Value>);

impl Params {
    fn text(&self, at: usize) -> Rpc<&str> {
        let text = self.0.get(at).and_then(Value::as_str);
        text.ok_or_else(|| (BAD_PARAMETER, format!("parameter {at} is not a text")))
    }

    fn number(&self, at: usize) -> Rpc<u32> {
        let number = self.0.get(at).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
        number.ok_or_else(|| (BAD_PARAMETER, format!("parameter {at} is not a number")))
    }

    fn read<T: std::str::FromStr>(&self, at: usize) -> Rpc<T> {
        let read = self.text(at)?.parse();
        read.map_err(|_| (BAD_PARAMETER, format!("parameter {at} cannot be read")))
    }
}

impl Chain {
    fn new() -> Chain {
        let genesis = genesis_block(Network::Regtest);
        Chain {
            heights: HashMap::from([(genesis.block_hash(), 0)]),
            blocks: vec![genesis],
            coins: HashMap::new(),
            mined: HashMap::new(),
            mempool: Vec::new(),
        }
    }

    fn height(&self) -> u32 {
        u32::try_from(self.blocks.len()).unwrap_or(u32::MAX).saturating_sub(1)
    }

    fn at(&self, height: u32) -> Rpc<&Block> {
        let block = usize::try_from(height).ok().and_then(|height| self.blocks.get(height));
        block.ok_or_else(|| (BAD_PARAMETER, "Block height out of range".to_owned()))
    }

    fn height_of(&self, hash: BlockHash) -> Rpc<u32> {
        let height = self.heights.get(&hash).copied();
        height.ok_or_else(|| (NOT_FOUND, "Block not found".to_owned()))
    }

    fn tip(&self) -> Rpc<&Block> {
        self.at(self.height())
    }

    fn call(&mut self, method: &str, params: &Params) -> Rpc<Value> {
        match method {
            "getblockchaininfo" => Ok(json!({
                "chain": "regtest", "blocks": self.height(), "headers": self.height(),
                "bestblockhash": self.tip()?.block_hash().to_string(),
                "difficulty": number(DIFFICULTY), "initialblockdownload": false,
            })),
            "getblockcount" => Ok(json!(self.height())),
            "getblockhash" => Ok(json!(self.at(params.number(0)?)?.block_hash().to_string())),
            "getblockheader" => self.header(params.read(0)?),
            "getblock" => {
                let height = self.height_of(params.read(0)?)?;
                Ok(json!(serialize_hex(self.at(height)?)))
            }
            "gettxout" => self.coin(OutPoint::new(params.read(0)?, params.number(1)?)),
            "sendrawtransaction" => self.send(params.text(0)?),
            "estimatesmartfee" => Ok(json!({ "feerate": number(FEE_RATE), "blocks": 1 })),
            "getmempoolinfo" => Ok(json!({
                "loaded": true, "size": self.mempool.len(),
                "mempoolminfee": number(FEE_RATE), "minrelaytxfee": number(FEE_RATE),
            })),
            "getrawmempool" => {
                Ok(json!(self.waiting().map(|id| id.to_string()).collect::<Vec<_>>()))
            }
            "getmempoolentry" => {
                let id: Txid = params.read(0)?;
                let entry = self.mempool.iter().find(|w| w.transaction.compute_txid() == id);
                let entry = entry.ok_or((NOT_FOUND, "Transaction not in mempool".to_owned()))?;
                Ok(json!({ "time": entry.at_s, "height": entry.height }))
            }
            "getrawtransaction" => {
                let id: Txid = params.read(0)?;
                let waiting = self.mempool.iter().map(|waiting| &waiting.transaction);
                let waiting = waiting.into_iter().find(|waiting| waiting.compute_txid() == id);
                let found = waiting.or_else(|| self.mined.get(&id));
                let found = found.ok_or((NOT_FOUND, "No such transaction".to_owned()))?;
                Ok(json!(serialize_hex(found)))
            }
            "generatetoaddress" => self.generate(params.number(0)?, params.text(1)?),
            _ => Err((NO_METHOD, format!("Method not found: {method}"))),
        }
    }

    fn header(&self, hash: BlockHash) -> Rpc<Value> {
        let height = self.height_of(hash)?;
        let block = self.at(height)?;
        let header = &block.header;
        // At regtest's difficulty a block is two hashes of work.
        let work = (u128::from(height) + 1) * 2;
        let before = (height > 0).then(|| header.prev_blockhash.to_string());
        Ok(json!({
            "hash": hash.to_string(), "confirmations": self.height() - height + 1,
            "height": height, "version": header.version.to_consensus(),
            "versionHex": format!("{:08x}", header.version.to_consensus()),
            "merkleroot": header.merkle_root.to_string(), "time": header.time,
            "mediantime": header.time, "nonce": header.nonce,
            "bits": format!("{:08x}", header.bits.to_consensus()),
            "difficulty": number(DIFFICULTY), "chainwork": format!("{work:064x}"),
            "nTx": block.txdata.len(), "previousblockhash": before,
        }))
    }

    fn coin(&self, at: OutPoint) -> Rpc<Value> {
        let Some(coin) = self.coins.get(&at) else { return Ok(Value::Null) };
        let value = coin.output.value.to_string_in(bitcoin::Denomination::Bitcoin);
        Ok(json!({
            "bestblock": self.tip()?.block_hash().to_string(),
            "confirmations": self.height() - coin.height + 1,
            "value": number(&value), "coinbase": coin.is_coinbase,
            "scriptPubKey": { "hex": coin.output.script_pubkey.to_hex_string() },
        }))
    }

    fn waiting(&self) -> impl Iterator<Item = Txid> {
        self.mempool.iter().map(|waiting| waiting.transaction.compute_txid())
    }

    /// An output that can be spent, mined or waiting.
    fn spendable(&self, at: &OutPoint) -> Option<TxOut> {
        let waits = || {
            let found = self.mempool.iter().find(|w| w.transaction.compute_txid() == at.txid)?;
            found.transaction.tx_out(usize::try_from(at.vout).ok()?).ok().cloned()
        };
        self.coins.get(at).map(|coin| coin.output.clone()).or_else(waits)
    }

    fn send(&mut self, hex: &str) -> Rpc<Value> {
        let transaction: Transaction = deserialize_hex(hex)
            .map_err(|why| (UNDECODABLE, format!("TX decode failed: {why}")))?;
        self.check(&transaction)?;
        let id = transaction.compute_txid();
        let height = self.height();
        self.mempool.push(Waiting { transaction, at_s: now_s(), height });
        Ok(json!(id.to_string()))
    }

    /// What consensus asks of a transaction for the next block.
    fn check(&self, transaction: &Transaction) -> Rpc<()> {
        let id = transaction.compute_txid();
        if self.mined.contains_key(&id) || self.waiting().any(|waiting| waiting == id) {
            return Err((KNOWN, "txn-already-known".to_owned()));
        }
        let rejected = |why: &str| (REJECTED, why.to_owned());
        let all = self.mempool.iter().flat_map(|waiting| waiting.transaction.input.iter());
        let spent: HashSet<OutPoint> = all.map(|input| input.previous_output).collect();
        let mut value_in = Amount::ZERO;
        for input in &transaction.input {
            let coin = self.spendable(&input.previous_output);
            let coin = coin.ok_or((MISSING_INPUTS, "bad-txns-inputs-missingorspent".to_owned()))?;
            if spent.contains(&input.previous_output) {
                return Err(rejected("txn-mempool-conflict"));
            }
            self.check_age(transaction, input)?;
            value_in += coin.value;
        }
        let value_out: Amount = transaction.output.iter().map(|output| output.value).sum();
        if value_out > value_in {
            return Err(rejected("bad-txns-in-belowout"));
        }
        let is_final = transaction.input.iter().all(|input| input.sequence == Sequence::MAX);
        if let LockTime::Blocks(height) = transaction.lock_time
            && !is_final
            && height.to_consensus_u32() > self.height()
        {
            return Err(rejected("non-final"));
        }
        let verified = transaction.verify(|at| self.spendable(at));
        verified.map_err(|why| (REJECTED, format!("mandatory-script-verify-flag-failed ({why})")))
    }

    /// Coinbases ripen, and a relative lock runs from the block of what it spends.
    fn check_age(&self, transaction: &Transaction, input: &TxIn) -> Rpc<()> {
        let next = self.height() + 1;
        let coin = self.coins.get(&input.previous_output);
        if coin.is_some_and(|coin| coin.is_coinbase && next < coin.height + COINBASE_MATURITY) {
            return Err((REJECTED, "bad-txns-premature-spend-of-coinbase".to_owned()));
        }
        if let Some(relative::LockTime::Blocks(blocks)) = input.sequence.to_relative_lock_time()
            && transaction.version.0 >= 2
            && next < coin.map_or(next, |coin| coin.height) + u32::from(blocks.value())
        {
            return Err((REJECTED, "non-BIP68-final".to_owned()));
        }
        Ok(())
    }

    fn generate(&mut self, blocks: u32, address: &str) -> Rpc<Value> {
        let wrong = |_| (NOT_FOUND, "Error: Invalid address".to_owned());
        let address = Address::from_str(address).map_err(wrong)?;
        let address = address.require_network(Network::Regtest).map_err(wrong)?;
        let mut hashes = Vec::new();
        for _ in 0..blocks {
            hashes.push(self.mine(address.script_pubkey())?.to_string());
        }
        Ok(json!(hashes))
    }

    fn mine(&mut self, payee: ScriptBuf) -> Rpc<BlockHash> {
        let height = self.height() + 1;
        let fees = self.fees();
        let transactions: Vec<Transaction> =
            self.mempool.drain(..).map(|waiting| waiting.transaction).collect();
        let before = self.tip()?.header;
        let block = assemble(height, &before, payee, fees, transactions)?;
        for (place, transaction) in block.txdata.iter().enumerate() {
            let (id, is_coinbase) = (transaction.compute_txid(), place == 0);
            for input in &transaction.input {
                self.coins.remove(&input.previous_output);
            }
            for (index, output) in (0..).zip(&transaction.output) {
                let coin = Coin { output: output.clone(), height, is_coinbase };
                self.coins.insert(OutPoint::new(id, index), coin);
            }
            self.mined.insert(id, transaction.clone());
        }
        let hash = block.block_hash();
        self.heights.insert(hash, height);
        self.blocks.push(block);
        Ok(hash)
    }

    fn fees(&self) -> Amount {
        let fee = |transaction: &Transaction| {
            let inputs = transaction.input.iter();
            let coins = inputs.filter_map(|input| self.spendable(&input.previous_output));
            let value_in: Amount = coins.map(|coin| coin.value).sum();
            let value_out: Amount = transaction.output.iter().map(|output| output.value).sum();
            value_in.checked_sub(value_out).unwrap_or(Amount::ZERO)
        };
        self.mempool.iter().map(|waiting| fee(&waiting.transaction)).sum()
    }
}

/// A block on top of another, with its proof of work.
fn assemble(
    height: u32,
    before: &Header,
    payee: ScriptBuf,
    fees: Amount,
    transactions: Vec<Transaction>,
) -> Rpc<Block> {
    let subsidy = Amount::from_sat(SUBSIDY_SAT >> (height / HALVING_BLOCKS).min(63));
    let mut coinbase = Transaction {
        version: transaction::Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn {
            previous_output: OutPoint::null(),
            script_sig: script::Builder::new()
                .push_int(i64::from(height))
                .push_slice(b"test")
                .into_script(),
            sequence: Sequence::MAX,
            witness: Witness::from_slice(&[[0; 32]]),
        }],
        output: vec![TxOut { value: subsidy + fees, script_pubkey: payee }],
    };
    let time = u32::try_from(now_s()).unwrap_or(u32::MAX).max(before.time + 1);
    let mut block = Block {
        header: Header {
            version: Version::from_consensus(0x2000_0000),
            prev_blockhash: before.block_hash(),
            merkle_root: TxMerkleNode::all_zeros(),
            time,
            bits: CompactTarget::from_consensus(REGTEST_BITS),
            nonce: 0,
        },
        txdata: [vec![coinbase.clone()], transactions].concat(),
    };
    let impossible = || (REJECTED, "the block cannot be made".to_owned());
    let root = block.witness_root().ok_or_else(impossible)?;
    let commitment = Block::compute_witness_commitment(&root, &[0; 32]);
    let mut script = vec![0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed];
    script.extend(commitment.as_byte_array());
    let script_pubkey = ScriptBuf::from_bytes(script);
    coinbase.output.push(TxOut { value: Amount::ZERO, script_pubkey });
    *block.txdata.first_mut().ok_or_else(impossible)? = coinbase;
    block.header.merkle_root = block.compute_merkle_root().ok_or_else(impossible)?;
    let target = block.header.target();
    while block.header.validate_pow(target).is_err() {
        block.header.nonce += 1;
    }
    if !block.check_witness_commitment() || !block.check_merkle_root() {
        return Err(impossible());
    }
    Ok(block)
}

/// A number as Core writes it.
fn number(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

#[allow(clippy::disallowed_methods, reason = "blocks carry the time, and this is for tests")]
fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
