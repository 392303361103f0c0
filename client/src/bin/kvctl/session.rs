//! The keyspace of a command, perhaps in a session that outlives the command.
//!
//! ```text
//!   FILE ─ token ─▶ session ─▶ requests ─▶ token, merged with what FILE holds by then ─▶ FILE
//! ```
//!
//! A token of another keyspace, or of one that was dropped, is refused before anything is written.
//!
//! **Invariant.** What one command has read or written, the next one with the same file reads again, whichever node
//! answers. The file is replaced as a whole; that it can be written is found out before anything is sent.

use crate::{TIMEOUT_DEFAULT, args::Globals, client, exit::complain};
use anyhow::Context as _;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use kvorum_api::SessionToken;
use kvorum_client::{ClientError, Cp, Keyspace, Session};
use std::{
    fs,
    io::ErrorKind,
    ops::Deref,
    path::{Path, PathBuf},
};

/// A keyspace, and the session it is used in.
pub struct Access {
    keyspace: Keyspace<Cp>,
    session: Option<(Session<Cp>, PathBuf)>,
}

impl Access {
    pub fn open(globals: &Globals) -> anyhow::Result<Self> {
        let keyspace = client(globals, TIMEOUT_DEFAULT)?.keyspace(&globals.keyspace);
        let Some(path) = &globals.session else { return Ok(Access { keyspace, session: None }) };
        let session = match read(path)? {
            Some(token) => Session::from_token(&keyspace, &token.encode())?,
            None => keyspace.session(),
        };
        // Nothing is sent whose token could not be kept.
        write(path, &fs::read(path).unwrap_or_default())?;
        Ok(Access { keyspace: Keyspace::clone(&session), session: Some((session, path.clone())) })
    }

    /// Keeps what the session has seen, then hands the outcome on. What the cluster said matters more than the file.
    pub fn keeping<T>(&self, outcome: Result<T, ClientError>) -> anyhow::Result<T> {
        match (outcome, self.keep()) {
            (Ok(answer), Ok(())) => Ok(answer),
            (Ok(_), Err(error)) => Err(error),
            (Err(error), Ok(())) => Err(error.into()),
            (Err(error), Err(not_kept)) => {
                complain(&format!("warning: {not_kept:#}"));
                Err(error.into())
            }
        }
    }

    /// Writes the token of the session, if there is one.
    pub fn keep(&self) -> anyhow::Result<()> {
        let Some((session, path)) = &self.session else { return Ok(()) };
        let seen = session.token();
        if seen.is_empty() {
            return Ok(());
        }
        let mut token = SessionToken::decode(&seen).context("the session's own token")?;
        // Another command may have gone on with the same session meanwhile.
        if let Some(there) = read(path)? {
            anyhow::ensure!(
                token.merge(&there),
                "{} holds the session of another keyspace by now (number {}, not {}) and was left as it is",
                path.display(),
                there.keyspace,
                token.keyspace
            );
        }
        write(path, format!("{}\n", BASE64_STANDARD.encode(token.encode())).as_bytes())
    }
}

impl Deref for Access {
    type Target = Keyspace<Cp>;

    fn deref(&self) -> &Keyspace<Cp> {
        &self.keyspace
    }
}

/// `None` = there is no session yet.
fn read(path: &Path) -> anyhow::Result<Option<SessionToken>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    if text.trim().is_empty() {
        return Ok(None);
    }
    let whose = || format!("{} holds no session token: name another file, or remove it", path.display());
    let bytes = BASE64_STANDARD.decode(text.trim()).with_context(whose)?;
    SessionToken::decode(&bytes).map(Some).with_context(whose)
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    fs::write(&beside, bytes)
        .and_then(|()| fs::rename(&beside, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_api::{KeyspaceId, LogPosition, Seen, ShardId};
    use tempfile::TempDir;

    #[test]
    fn a_token_is_read_as_it_was_written_and_other_text_is_refused() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("session");
        assert!(read(&path).unwrap().is_none());
        let mut token = SessionToken::new(KeyspaceId(7));
        token.shards.insert(ShardId(3), Seen { incarnation: 0, position: LogPosition { term: 2, index: 9 } });
        write(&path, BASE64_STANDARD.encode(token.encode()).as_bytes()).unwrap();
        assert_eq!(read(&path).unwrap(), Some(token));
        for other in ["nonsense!", "AAAA"] {
            fs::write(&path, other).unwrap();
            assert!(read(&path).unwrap_err().to_string().contains("holds no session token"));
        }
    }
}
