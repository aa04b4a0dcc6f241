//! A sandbox MCP server: a few tools worth guarding, in both eras, over streamable HTTP.
//!
//! It counts what really ran, so that a demonstration or a test can compare that with the ledger.

use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation,
        JsonObject, ListToolsResult, PaginatedRequestParams, ProgressNotificationParam,
        ServerCapabilities, ServerConfig, Tool,
    },
    service::RequestContext,
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
    },
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::net::TcpListener;

/// How often each tool ran.
#[derive(Clone, Debug, Default)]
pub struct Runs(Arc<Mutex<BTreeMap<String, u64>>>);

impl Runs {
    /// Runs of one tool.
    #[must_use]
    pub fn of(&self, tool: &str) -> u64 {
        let runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        runs.get(tool).copied().unwrap_or(0)
    }

    fn count(&self, tool: &str) -> u64 {
        let mut runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let run = runs.entry(tool.to_owned()).or_default();
        *run = run.saturating_add(1);
        *run
    }

    fn all(&self) -> Value {
        json!(*self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A running sandbox server.
#[derive(Clone, Debug)]
pub struct SandboxServer {
    /// Its endpoint.
    pub url: String,
    /// What ran.
    pub runs: Runs,
}

/// Starts on a loopback address.
///
/// # Errors
/// The address is not loopback or cannot be bound.
pub async fn start(address: SocketAddr) -> std::io::Result<SandboxServer> {
    if !address.ip().is_loopback() {
        return Err(std::io::Error::other("sandbox parts bind loopback addresses only"));
    }
    let listener = TcpListener::bind(address).await?;
    let url = format!("http://{}/mcp", listener.local_addr()?);
    let runs = Runs::default();
    let tools = Tools { runs: runs.clone() };
    let service = StreamableHttpService::new(
        move || Ok(tools.clone()),
        Arc::new(LocalSessionManager::default()),
        StreamableHttpServerConfig::default(),
    );
    let app = axum::Router::new().route_service("/mcp", service);
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(SandboxServer { url, runs })
}

#[derive(Clone, Debug)]
struct Tools {
    runs: Runs,
}

impl ServerHandler for Tools {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("countersign-sandbox", "0.1.0"))
            .with_instructions("Sandbox tools: nothing here touches the world.")
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(tools()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let arguments = Value::Object(request.arguments.unwrap_or_default());
        let run = self.runs.count(&request.name);
        let text =
            |text: String| Ok(CallToolResult::success(vec![ContentBlock::text(text)]).into());
        match &*request.name {
            "status" => {
                text(json!({ "sandbox": true, "ok": true, "runs": self.runs.all() }).to_string())
            }
            "get_forecast" => Ok(forecast(&arguments).into()),
            "get_report" => {
                report(&context).await;
                text(format!("sandbox report number {run}"))
            }
            "delete_report" => text("sandbox report deleted".to_owned()),
            "get_broken" => {
                Ok(CallToolResult::error(vec![ContentBlock::text("sandbox failure")]).into())
            }
            "get_slow" => {
                let ms = arguments.get("ms").and_then(Value::as_u64).unwrap_or(1000).min(60_000);
                tokio::time::sleep(Duration::from_millis(ms)).await;
                text(format!("sandbox slept {ms} ms"))
            }
            _ => Err(ErrorData::invalid_params("no such tool", None)),
        }
    }
}

fn tools() -> Vec<Tool> {
    let schema = |properties: Value| -> JsonObject {
        let schema = json!({ "type": "object", "properties": properties });
        schema.as_object().cloned().unwrap_or_default()
    };
    let city = json!({ "city": { "type": "string" } });
    let output = json!({
        "temperature": { "type": "integer" },
        "sky": { "type": "string" },
        "sandbox": { "type": "boolean" },
    });
    let mut forecast = Tool::new("get_forecast", "Sandbox weather of a city", schema(city));
    forecast.output_schema = Some(Arc::new(schema(output)));
    vec![
        Tool::new("status", "How often each sandbox tool ran", schema(json!({}))),
        forecast,
        Tool::new("get_report", "A sandbox report, with progress", schema(json!({}))),
        Tool::new("delete_report", "Deletes a sandbox report", schema(json!({}))),
        Tool::new("get_broken", "Always fails", schema(json!({}))),
        Tool::new("get_slow", "Waits", schema(json!({ "ms": { "type": "integer" } }))),
    ]
}

/// The same city has the same weather: a checksum of its name.
fn forecast(arguments: &Value) -> CallToolResult {
    let city = arguments.get("city").and_then(Value::as_str).unwrap_or("nowhere");
    let sum: u64 = city.bytes().map(u64::from).sum();
    let sky = if sum.is_multiple_of(2) { "clear" } else { "rain" };
    CallToolResult::structured(json!({ "temperature": sum % 30, "sky": sky, "sandbox": true }))
}

async fn report(context: &RequestContext<RoleServer>) {
    let token = context.meta.get_progress_token();
    let Some(token) = token else { return };
    for step in 1..=3u8 {
        let progress =
            ProgressNotificationParam::new(token.clone(), f64::from(step)).with_total(3.0);
        // A client that does not listen for progress loses only that.
        let _unheard = context.peer.notify_progress(progress).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
