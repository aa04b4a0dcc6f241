//! The log's word on configurations: which one was put in force while the gateway ran.

use crate::{attempt::pseudonym, store::Store};
use countersign_core::{
    audit::record::{Kind, RecordDraft, Subject},
    digest::Digest,
    refusal::Refusal,
};

impl Store {
    /// Appends the `admin` record that a configuration is put in force: SHA-256 of its file, and
    /// on whose word, by pseudonym.
    ///
    /// # Errors
    /// `Overloaded`, `StoreFault`.
    pub async fn configured(&self, file: Digest, by: &str) -> Result<(), Refusal> {
        let by = by.to_owned();
        self.enter(move |batch| {
            let mut draft = RecordDraft::new(Kind::Admin, batch.now, Subject::Deployment);
            draft.note("action", "configuration.reload".to_owned());
            draft.note("configuration", file.to_hex());
            draft.note("operator", pseudonym(&batch.shared().pseudonym_key, &by).to_hex());
            batch.log.append(batch.conn, &draft)?;
            Ok(())
        })
        .await
    }
}
