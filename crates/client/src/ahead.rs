//! Work that is done before its call is made.
//!
//! Only work can be had ahead: its challenge has an endpoint of its own. One for money comes as the
//! answer to the call itself, which would run if nothing were asked for it, and opens an invoice.

use crate::{
    challenge::{Channel, WorkOffer},
    client::{Client, ToolCall},
    error::{ClientError, TransportError},
    http::parse_url,
    rpc::object,
};
use countersign_core::wire::json::quote;
use serde_json::value::RawValue;

impl Client {
    /// Does the work for a call that is to be made soon, where the server takes work for it and it
    /// is within the caps: the same call then presents it at once. `false` when there is none to
    /// do. What is not presented before its challenge expires, within two minutes, is lost.
    ///
    /// # Errors
    /// [`ClientError::Transport`], [`ClientError::Cache`], [`ClientError::BadInput`].
    pub async fn prepare(&self, call: &ToolCall) -> Result<bool, ClientError> {
        let (scope, now) = (self.scope(call)?, self.options.world.now());
        if let Some(entry) = self.options.credentials.take(&scope, now) {
            self.options.credentials.release(&entry.key);
            return Ok(true);
        }
        let Some(offer) = self.work_offer(call).await? else { return Ok(false) };
        if self.options.means.work(&offer).is_err() {
            return Ok(false);
        }
        let worked = self.do_work(call, &scope, &offer, Channel::Meta).await;
        let Some(entry) = worked else { return Ok(false) };
        self.keep(&entry).await?;
        self.options.credentials.release(&entry.key);
        Ok(true)
    }

    /// What the server would have worked for a call; `None` when it says anything else.
    async fn work_offer(&self, call: &ToolCall) -> Result<Option<WorkOffer>, ClientError> {
        // What a call brings back changes what it is.
        if call.members.is_some() {
            return Ok(None);
        }
        let url = format!("{}/pow/challenge", self.server());
        let uri = parse_url(&url, self.options.allow_plain_http)?;
        let asked = object(&[("tool", &quote(&call.name)), ("arguments", call.arguments.get())]);
        let (http, headers) = (&self.endpoint.http, self.endpoint.headers()?);
        let answered = async {
            let response = http.post(&uri, headers, asked).await?;
            let is_offered = response.status().is_success();
            let body = http.read(response.into_body()).await?;
            Ok::<_, TransportError>(is_offered.then_some(body))
        };
        let Some(body) = http.in_time(answered).await? else { return Ok(None) };
        let raw = serde_json::from_slice::<Box<RawValue>>(&body).ok();
        Ok(raw.and_then(|raw| WorkOffer::read(&raw)))
    }
}
