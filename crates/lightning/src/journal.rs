//! The journal: one file, one fact a line, synced before anyone hears of it.
//!
//! Owns the book, so that nothing is applied that is not on disk. A line that a crash cut short is
//! the last one, was told to nobody, and is cut off; a spoilt line elsewhere stops the start. After
//! an error of the disk nothing is appended any more.
//!
//! The file is shortened, by a new one that takes its name, when it has grown: what is not over
//! stays, and so do the last facts.

use crate::{
    book::{Book, Entry, Fact},
    disk, world,
};
use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// At this many facts the journal is shortened,
const MOST: usize = 100_000;
/// to the last ones, and what is not over.
const KEPT: u64 = 20_000;

pub(crate) struct Journal {
    pub(crate) book: Book,
    /// Invoices that were never paid and are no longer in the book.
    pub(crate) dropped: Vec<String>,
    folder: PathBuf,
    file: File,
    facts: usize,
    /// When it is shortened next: far enough off that this is rare, whatever has to stay.
    facts_most: usize,
    broken: bool,
}

impl Journal {
    pub(crate) fn open(folder: &Path) -> Result<Journal, String> {
        let path = folder.join("journal.jsonl");
        let says = |why: io::Error| format!("{}: {why}", path.display());
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(why) if why.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(why) => return Err(says(why)),
        };
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let mut book = Book::default();
        let mut facts = 0_usize;
        for line in bytes.get(..whole).unwrap_or_default().split(|byte| *byte == b'\n') {
            if line.is_empty() {
                continue;
            }
            let entry: Entry = serde_json::from_slice(line)
                .map_err(|_| format!("{}: fact {} cannot be read", path.display(), facts + 1))?;
            facts += 1;
            book.apply(entry);
        }
        let file = disk::private().create(true).append(true).open(&path).map_err(says)?;
        if whole != bytes.len() {
            let whole = u64::try_from(whole).map_err(|why| why.to_string())?;
            file.set_len(whole).map_err(says)?;
        }
        file.sync_all().map_err(says)?;
        disk::sync_dir(folder).map_err(says)?;
        let (folder, dropped) = (folder.to_owned(), Vec::new());
        Ok(Journal { book, dropped, folder, file, facts, facts_most: MOST, broken: false })
    }

    /// Makes a fact durable, then applies it.
    pub(crate) fn append(&mut self, fact: Fact) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("the journal is broken"));
        }
        self.broken = true;
        let entry = Entry { n: self.book.last.saturating_add(1), at_ms: world::now_ms(), fact };
        self.file.write_all(&line(&entry)?)?;
        self.file.sync_data()?;
        self.facts = self.facts.saturating_add(1);
        self.book.apply(entry);
        if self.facts >= self.facts_most {
            self.shorten(KEPT)?;
        }
        self.broken = false;
        Ok(())
    }

    /// Leaves out what is over, but for the last facts.
    fn shorten(&mut self, kept: u64) -> io::Result<()> {
        let (path, new) = (self.folder.join("journal.jsonl"), self.folder.join("journal.new"));
        let (now_ms, through) = (world::now_ms(), self.book.last.saturating_sub(kept));
        let entries = fs::read(&path)?;
        let mut book = Book::default();
        let mut facts = 1_usize;
        let mut out = Vec::new();
        let head = Entry { n: through, at_ms: now_ms, fact: Fact::Shortened { through } };
        out.extend(line(&head)?);
        book.apply(head);
        for text in entries.split(|byte| *byte == b'\n').filter(|text| !text.is_empty()) {
            let entry: Entry = serde_json::from_slice(text)?;
            let is_head = matches!(entry.fact, Fact::Shortened { .. });
            if !is_head && (entry.n > through || self.book.is_needed(&entry.fact, now_ms)) {
                out.extend(line(&entry)?);
                facts = facts.saturating_add(1);
                book.apply(entry);
            }
        }
        let mut file = disk::private().create(true).truncate(true).write(true).open(&new)?;
        file.write_all(&out)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        disk::sync_dir(&self.folder)?;
        self.file = disk::private().append(true).open(&path)?;
        let unpaid = self.book.unpaid().filter(|hash| !book.invoices.contains_key(*hash));
        self.dropped.extend(unpaid.cloned());
        (self.book, self.facts) = (book, facts);
        self.facts_most = MOST.max(facts.saturating_mul(2));
        Ok(())
    }
}

fn line(entry: &Entry) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(entry)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::End;

    fn scratch() -> PathBuf {
        let name = format!("countersign-journal-{}", hex::encode(world::random().unwrap()));
        let dir = std::env::temp_dir().join(name);
        fs::create_dir(&dir).unwrap();
        dir
    }

    fn invoice(hash: &str, expires_at_ms: u64) -> Fact {
        let payment_hash = hash.to_owned();
        Fact::Invoice { payment_hash, amount_msat: 1, expires_at_ms, hold: true }
    }

    fn cancelled(hash: &str) -> Fact {
        Fact::Cancelled { payment_hash: hash.to_owned() }
    }

    #[test]
    fn what_was_appended_is_there_again() {
        let dir = scratch();
        let mut journal = Journal::open(&dir).unwrap();
        journal.append(invoice("a", 1)).unwrap();
        journal.append(cancelled("a")).unwrap();
        drop(journal);
        let again = Journal::open(&dir).unwrap();
        assert_eq!(again.book.invoices["a"].end, End::Cancelled);
        assert_eq!(again.book.last, 2);
    }

    #[test]
    fn a_line_that_was_cut_short_never_happened() {
        let dir = scratch();
        let mut journal = Journal::open(&dir).unwrap();
        journal.append(invoice("a", 1)).unwrap();
        journal.append(cancelled("a")).unwrap();
        drop(journal);
        let path = dir.join("journal.jsonl");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        let mut journal = Journal::open(&dir).unwrap();
        assert_eq!(journal.book.invoices["a"].end, End::None);
        journal.append(cancelled("a")).unwrap();
        drop(journal);
        assert_eq!(Journal::open(&dir).unwrap().book.invoices["a"].end, End::Cancelled);
    }

    #[test]
    fn a_spoilt_line_within_stops_the_start() {
        let dir = scratch();
        let mut journal = Journal::open(&dir).unwrap();
        journal.append(invoice("a", 1)).unwrap();
        journal.append(cancelled("a")).unwrap();
        drop(journal);
        let path = dir.join("journal.jsonl");
        let text = fs::read_to_string(&path).unwrap().replacen("invoice", "in voice", 1);
        fs::write(&path, text).unwrap();
        assert!(Journal::open(&dir).err().unwrap().contains("fact 1 cannot be read"));
    }

    #[test]
    fn shortening_keeps_what_is_not_over_and_says_what_is_gone() {
        let dir = scratch();
        let mut journal = Journal::open(&dir).unwrap();
        journal.append(invoice("open", u64::MAX)).unwrap();
        journal.append(invoice("over", u64::MAX)).unwrap();
        journal.append(cancelled("over")).unwrap();
        journal.append(invoice("last", u64::MAX)).unwrap();
        journal.append(cancelled("last")).unwrap();
        journal.shorten(2).unwrap();
        let mut again = Journal::open(&dir).unwrap();
        for book in [&journal.book, &again.book] {
            let mut left: Vec<&String> = book.invoices.keys().collect();
            left.sort();
            assert_eq!(left, ["last", "open"]);
            assert_eq!((book.gone_through, book.last), (3, 5));
            assert_eq!(book.events(3, 10).len(), 1);
        }
        assert_eq!(journal.dropped, ["over"]);
        drop(journal);
        again.append(cancelled("open")).unwrap();
        assert_eq!(Journal::open(&dir).unwrap().book.last, 6);
    }
}
