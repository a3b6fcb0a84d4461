//! The first packet of a PostgreSQL connection: reading it, judging it, and answering in its language.
//!
//! PostgreSQL documentation, "Message Formats": StartupMessage, SSLRequest, GSSENCRequest, CancelRequest.

use flypg_core::keys::Role;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// MAX_STARTUP_PACKET_LENGTH of PostgreSQL.
const LONGEST: usize = 10_000;
const CANCEL_REQUEST: u32 = 80_877_102;
const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;

/// What a client begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Startup {
    Session(SessionStart),
    /// To be passed on as it is.
    Cancel {
        packet: Vec<u8>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionStart {
    /// The whole packet, as it came.
    pub packet: Vec<u8>,
    pub user: String,
    /// A walsender is asked for, physical or logical.
    pub replication: bool,
}

/// The client did not begin as a PostgreSQL client does.
#[derive(Debug, thiserror::Error)]
pub enum StartupError {
    #[error("the client went away")]
    Io(#[from] std::io::Error),
    #[error("a startup packet of {0} bytes")]
    Length(u32),
    #[error("{0}")]
    Malformed(&'static str),
    #[error("protocol {}.{}", .0 >> 16, .0 & 0xffff)]
    Protocol(u32),
}

impl StartupError {
    /// What a client is told that speaks the language, though not well; anything else would not understand it.
    pub fn refused(&self) -> Option<Refused> {
        match self {
            Self::Io(_) | Self::Length(_) => None,
            Self::Malformed(what) => Some(Refused::new("08P01", format!("invalid startup packet: {what}"))),
            Self::Protocol(version) => {
                let (major, minor) = (version >> 16, version & 0xffff);
                let message = format!("unsupported frontend protocol {major}.{minor}: server supports 3.0 and later");
                Some(Refused::new("0A000", message))
            }
        }
    }
}

/// The places a client can come in at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Door {
    ReadWrite,
    Node,
    ReadOnly,
    Replication,
}

impl Door {
    pub const ALL: [Door; 4] = [Door::ReadWrite, Door::Node, Door::ReadOnly, Door::Replication];

    pub fn name(self) -> &'static str {
        match self {
            Door::ReadWrite => "read_write",
            Door::Node => "node",
            Door::ReadOnly => "read_only",
            Door::Replication => "replication",
        }
    }
}

/// A PostgreSQL error that ends a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// SQLSTATE.
    pub code: &'static str,
    pub message: String,
    pub detail: Option<&'static str>,
}

impl Refused {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), detail: None }
    }

    #[must_use]
    pub fn with_detail(self, detail: &'static str) -> Self {
        Self { detail: Some(detail), ..self }
    }

    /// ErrorResponse.
    pub fn packet(&self) -> Vec<u8> {
        let mut fields = Vec::new();
        let said = [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', self.code), (b'M', &self.message)];
        for (tag, value) in said.into_iter().chain(self.detail.map(|detail| (b'D', detail))) {
            fields.push(tag);
            fields.extend_from_slice(value.as_bytes());
            fields.push(0);
        }
        fields.push(0);
        let mut packet = vec![b'E'];
        packet.extend_from_slice(&u32::try_from(fields.len() + 4).expect("a short message").to_be_bytes());
        packet.extend_from_slice(&fields);
        packet
    }
}

/// Reads up to the packet that says what the client wants; offers of encryption are declined on the way.
pub async fn read<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Result<Startup, StartupError> {
    // One offer each of TLS and of GSSAPI, then the real thing.
    for _ in 0..3 {
        let length = stream.read_u32().await?;
        if !(8..=LONGEST).contains(&(length as usize)) {
            return Err(StartupError::Length(length));
        }
        let mut packet = vec![0; length as usize];
        packet[..4].copy_from_slice(&length.to_be_bytes());
        stream.read_exact(&mut packet[4..]).await?;
        let code = u32::from_be_bytes(packet[4..8].try_into().expect("four bytes"));
        match code {
            SSL_REQUEST | GSSENC_REQUEST => {
                if length != 8 {
                    return Err(StartupError::Malformed("an offer of encryption with something after it"));
                }
                stream.write_all(b"N").await?;
            }
            CANCEL_REQUEST => return Ok(Startup::Cancel { packet }),
            protocol if protocol >> 16 == 3 => return parse(packet).map(Startup::Session),
            version => return Err(StartupError::Protocol(version)),
        }
    }
    Err(StartupError::Malformed("only offers of encryption"))
}

fn parse(packet: Vec<u8>) -> Result<SessionStart, StartupError> {
    let body = packet[8..].strip_suffix(&[0, 0]).or(packet[8..].strip_suffix(&[0]).filter(|rest| rest.is_empty()));
    let body = body.ok_or(StartupError::Malformed("a startup packet without an end"))?;
    let mut words = body.split(|byte| *byte == 0);
    let (mut user, mut replication) = (None, None);
    while let Some(name) = words.next() {
        if name.is_empty() {
            // Postgres stops reading here; whatever follows would be read by us alone.
            return Err(StartupError::Malformed("a startup parameter without a name"));
        }
        let value = words.next().ok_or(StartupError::Malformed("a startup parameter without a value"))?;
        let slot = match name {
            b"user" => &mut user,
            b"replication" => &mut replication,
            _ => continue,
        };
        // Postgres takes the last of several; nobody honest sends two.
        if slot.replace(value.to_vec()).is_some() {
            return Err(StartupError::Malformed("a startup parameter given twice"));
        }
    }
    let user = user.filter(|user| !user.is_empty()).ok_or(StartupError::Malformed("no user"))?;
    let user = String::from_utf8_lossy(&user).into_owned();
    Ok(SessionStart { user, replication: replication.is_some_and(|value| !is_false(&value)), packet })
}

/// What PostgreSQL's `parse_bool` takes for false. Everything else counts as asking for replication.
fn is_false(value: &[u8]) -> bool {
    let value = value.to_ascii_lowercase();
    let begins = |word: &[u8], least: usize| value.len() >= least && word.starts_with(&value);
    begins(b"false", 1) || begins(b"no", 1) || begins(b"off", 2) || value == b"0"
}

/// Whether a session may go through a door. What Postgres itself judges, such as the password, is left to it: all
/// connections reach it through the same socket, so this is all that depends on where they came from.
pub fn admit(door: Door, session: &SessionStart) -> Result<(), Refused> {
    let refused = |message: String| Err(Refused::new("28000", message));
    let replicates = session.user == Role::Replication.name();
    if session.user == Role::Agent.name() {
        return refused(format!("role \"{}\" is for this machine's agent only", session.user));
    }
    match door {
        Door::Replication if !session.replication && !replicates => {
            refused("this port is for replication between the nodes of the cluster".to_owned())
        }
        Door::Replication if !replicates => {
            refused(format!("role \"{}\" may not replicate between the nodes of the cluster", session.user))
        }
        // An ordinary session of that role is `pg_rewind`'s, which reads files by way of functions.
        Door::Replication => Ok(()),
        Door::ReadWrite | Door::Node | Door::ReadOnly => {
            if session.replication {
                refused("replication connections are not accepted on this port".to_owned())
            } else if replicates {
                refused(format!("role \"{}\" is for replication between nodes only", session.user))
            } else {
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(code: u32, body: &[u8]) -> Vec<u8> {
        let mut packet = u32::try_from(body.len() + 8).unwrap().to_be_bytes().to_vec();
        packet.extend(code.to_be_bytes());
        packet.extend(body);
        packet
    }

    fn session(body: &[u8]) -> Result<SessionStart, StartupError> {
        parse(packet(196_608, body))
    }

    async fn reads(bytes: &[u8]) -> (Result<Startup, StartupError>, Vec<u8>) {
        let (mut ours, mut theirs) = tokio::io::duplex(64 * 1024);
        theirs.write_all(bytes).await.unwrap();
        theirs.shutdown().await.unwrap();
        let read = read(&mut ours).await;
        drop(ours);
        let mut answers = Vec::new();
        theirs.read_to_end(&mut answers).await.unwrap();
        (read, answers)
    }

    #[tokio::test]
    async fn offers_of_encryption_are_declined_and_the_rest_is_read() {
        let start = packet(196_608, b"user\0ada\0database\0orders\0\0");
        let bytes = [packet(SSL_REQUEST, b""), packet(GSSENC_REQUEST, b""), start.clone()].concat();
        let (read, answers) = reads(&bytes).await;
        assert_eq!(answers, b"NN");
        let expected = SessionStart { packet: start, user: "ada".to_owned(), replication: false };
        assert_eq!(read.unwrap(), Startup::Session(expected));

        let cancel = packet(CANCEL_REQUEST, &[0, 0, 0, 7, 1, 2, 3, 4]);
        assert_eq!(reads(&cancel).await.0.unwrap(), Startup::Cancel { packet: cancel });
    }

    #[tokio::test]
    async fn what_is_no_postgres_client_is_turned_away() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            &[0x16, 3, 1, 2, 0, 1, 0, 1],
            &packet(131_072, b""),
            &packet(SSL_REQUEST, b"x"),
            &packet(SSL_REQUEST, b"").repeat(4),
            &packet(196_608, b"user\0ada\0")[..10],
            &[0, 0, 0, 7, 0, 3, 0],
        ] {
            assert!(reads(bytes).await.0.is_err(), "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn who_speaks_the_language_is_told_what_was_wrong() {
        let words = async |bytes: &[u8]| {
            let refused = reads(bytes).await.0.unwrap_err().refused();
            refused.map(|refused| (refused.code, refused.message))
        };
        let old = words(&packet(131_072, b"")).await.unwrap();
        assert_eq!(old, ("0A000", "unsupported frontend protocol 2.0: server supports 3.0 and later".to_owned()));
        let nobody = words(&packet(196_608, b"database\0x\0\0")).await.unwrap();
        assert_eq!(nobody, ("08P01", "invalid startup packet: no user".to_owned()));
        assert_eq!(words(b"GET / HTTP/1.1\r\n\r\n").await, None);
    }

    #[test]
    fn refusals_carry_what_is_said_beside_the_message() {
        let packet = Refused::new("53300", "no").with_detail("ask later").packet();
        assert_eq!(packet, *b"E\0\0\0\x29SFATAL\0VFATAL\0C53300\0Mno\0Dask later\0\0");
    }

    #[test]
    fn replication_is_recognised_however_it_is_spelt() {
        for yes in ["database", "true", "T", "on", "yes", "1", "y", "DATABASE", "o", "x", ""] {
            let body = [b"user\0ada\0replication\0", yes.as_bytes(), b"\0\0"].concat();
            assert!(session(&body).unwrap().replication, "{yes}");
        }
        for no in ["false", "F", "off", "of", "no", "n", "0", "FALSE"] {
            let body = [b"user\0ada\0replication\0", no.as_bytes(), b"\0\0"].concat();
            assert!(!session(&body).unwrap().replication, "{no}");
        }
        for bad in [
            &b"user\0ada\0user\0flypg\0\0"[..],
            b"user\0ada\0replication\0false\0replication\0true\0\0",
            b"user\0ada\0\0replication\0true\0\0",
            b"user\0ada",
            b"database\0x\0\0",
            b"\0",
        ] {
            assert!(session(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn doors_let_in_whom_they_are_for() {
        let as_who = |user: &str, replication| SessionStart { packet: vec![], user: user.to_owned(), replication };
        for door in Door::ALL {
            let replication = door == Door::Replication;
            assert!(admit(door, &as_who("flypg", false)).is_err(), "{door:?}");
            assert!(admit(door, &as_who("flypg", true)).is_err(), "{door:?}");
            assert_eq!(admit(door, &as_who("flypg_replication", true)).is_ok(), replication, "{door:?}");
            assert_eq!(admit(door, &as_who("flypg_replication", false)).is_ok(), replication, "{door:?}");
            assert!(admit(door, &as_who("postgres", true)).is_err(), "{door:?}");
            assert_eq!(admit(door, &as_who("postgres", false)).is_ok(), !replication, "{door:?}");
        }
    }
}
