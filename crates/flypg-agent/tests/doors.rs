//! Who is let in where, and what becomes of a connection.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::*;
use flypg_core::keys::Role;
use flypg_core::protocol::{PeerRole, ports};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio_postgres::error::SqlState;

/// A startup packet with these parameters.
fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = 196_608u32.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
    }
    body.push(0);
    [u32::try_from(body.len() + 4).unwrap().to_be_bytes().to_vec(), body].concat()
}

/// The type and the words of the first message that answers these parameters.
fn first_answer(node: &Node, port: u16, parameters: &[(&str, &str)]) -> (char, String) {
    let mut stream = TcpStream::connect((node.address, port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(&startup(parameters)).unwrap();
    let mut head = [0; 5];
    if stream.read_exact(&mut head).is_err() {
        return ('-', String::new());
    }
    let mut body = vec![0; u32::from_be_bytes(head[1..].try_into().unwrap()) as usize - 4];
    stream.read_exact(&mut body).unwrap();
    (head[0] as char, String::from_utf8_lossy(&body).replace('\0', " "))
}

#[tokio::test(flavor = "multi_thread")]
async fn doors_let_in_whom_they_are_for() {
    let (primary, standby, _) = pair();
    // Postgres asks for a password: 'R'. A door refuses: 'E'.
    for port in [ports::READ_WRITE, ports::NODE, ports::READ_ONLY] {
        assert_eq!(first_answer(&primary, port, &[("user", "postgres")]).0, 'R', "{port}");
        for (user, replication) in [("flypg", "false"), ("flypg_replication", "false"), ("postgres", "true")] {
            let (kind, words) = first_answer(&primary, port, &[("user", user), ("replication", replication)]);
            assert_eq!(kind, 'E', "{user} with replication={replication} on {port}: {words}");
            assert!(words.contains("28000"), "{words}");
        }
    }
    // The replication door is for members, and knows them by their addresses; a test comes from 127.0.0.1.
    let replication = [("user", "flypg_replication"), ("replication", "true")];
    assert_eq!(first_answer(&primary, ports::REPLICATION, &replication), ('-', String::new()));

    let socket = |from: &Node| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&std::net::SocketAddr::from((from.address, 0)).into()).unwrap();
        socket.connect(&std::net::SocketAddr::from((primary.address, ports::REPLICATION)).into()).unwrap();
        TcpStream::from(socket)
    };
    for (parameters, expected) in [
        (&replication[..], b'R'),
        // `pg_rewind` reads the source's files through functions, in an ordinary session.
        (&[("user", "flypg_replication")], b'R'),
        (&[("user", "postgres"), ("replication", "true")], b'E'),
        (&[("user", "flypg"), ("replication", "database")], b'E'),
    ] {
        let mut stream = socket(&standby);
        stream.write_all(&startup(parameters)).unwrap();
        let mut kind = [0; 1];
        stream.read_exact(&mut kind).unwrap();
        assert_eq!(kind[0], expected, "{parameters:?}");
    }
    // A wrong password is Postgres' to refuse, through every door.
    let error = primary.connect_as(ports::NODE, "postgres", "wrong").await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::INVALID_PASSWORD));
    let agents = key().password(Role::Agent);
    assert!(primary.connect_as(ports::NODE, "flypg", &agents).await.is_err());
}

#[test]
fn what_is_no_client_of_postgres_is_cut() {
    let node = Node::started("ord-1");
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 64], &[0x16, 3, 1, 0, 0, 0, 0, 0]] {
        let mut stream = TcpStream::connect((node.address, ports::NODE)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        // Closed or reset, and nothing said.
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(answer, b"");
    }
    // Silence is answered too, in its time.
    let start = Instant::now();
    let mut stream = TcpStream::connect((node.address, ports::NODE)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    assert!((8..20).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_finds_its_session_through_every_door() {
    let (primary, standby, _) = pair();
    let peers = [(&primary, PeerRole::Primary), (&standby, PeerRole::Standby)];
    let system_id = primary.report().postgres.unwrap().system_id;
    assert_eq!(standby.assign(follow(&primary, &system_id), &peers).status, 200);
    assert_eq!(primary.assign(lead(&system_id), &peers).status, 200);
    // From the standby's router to the primary, from the primary's read-only router to the standby, and direct.
    for (node, port) in [(&standby, ports::READ_WRITE), (&primary, ports::READ_ONLY), (&primary, ports::NODE)] {
        let client = node.connect(port).await.unwrap();
        let token = client.cancel_token();
        let query = tokio::spawn(async move { client.batch_execute("SELECT pg_sleep(60)").await });
        let start = Instant::now();
        let error = loop {
            token.cancel_query(tokio_postgres::NoTls).await.unwrap();
            if query.is_finished() {
                break query.await.unwrap().unwrap_err();
            }
            assert!(start.elapsed() < Duration::from_secs(20), "{port} of {} does not cancel", node.name);
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED), "{port} of {}", node.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_primary_connections_wait_and_then_are_told() {
    let node = Node::started("ord-1");
    let start = Instant::now();
    let error = node.connect(ports::READ_WRITE).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::CANNOT_CONNECT_NOW), "{error:?}");
    assert!((9..20).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    // One that is still waiting when the primary comes gets it.
    let waiting = async { node.connect(ports::READ_WRITE).await.map(|_| ()) };
    let task = flypg_core::protocol::Task::Bootstrap { nonce: "n1".to_owned() };
    let coming = async { node.assign(task, &[(&node, PeerRole::Primary)]).status };
    let (connected, status) = tokio::join!(waiting, coming);
    assert_eq!(status, 200);
    connected.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_cut_when_postgres_dies_and_new_ones_wait_for_it() {
    let node = Node::started("ord-1");
    node.bootstrap(&[]);
    let client = node.connect(ports::READ_WRITE).await.unwrap();
    let query = tokio::spawn(async move { client.batch_execute("SELECT pg_sleep(60)").await });
    kill(Pid::from_raw(node.postmaster_pid()), Signal::SIGKILL).unwrap();
    // Told at once, while Postgres is still down.
    node.until("the crash is reported", |report| report.crashes == 1);
    node.value(ports::READ_WRITE, "SELECT 1").await;
    let ended = tokio::time::timeout(Duration::from_secs(10), query).await.expect("the client was left hanging");
    assert!(ended.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_goes_to_a_standby_and_survives_without_one() {
    let (primary, mut standby, system_id) = pair();
    let peers = [(&primary, PeerRole::Primary), (&standby, PeerRole::Standby)];
    assert_eq!(primary.assign(lead(&system_id), &peers).status, 200);
    assert_eq!(primary.value(ports::READ_ONLY, "SELECT pg_is_in_recovery()").await, "t");
    standby.stop();
    assert_eq!(primary.value(ports::READ_ONLY, "SELECT pg_is_in_recovery()").await, "f");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_leaves_the_agent_its_own_files() {
    let mut node = Node::new("ord-1");
    node.open_files = Some(700);
    node.start();
    let system_id = node.bootstrap(&[]);
    // Far more than there is room for, and none of them says a word.
    let crowd: Vec<_> = (0..900).filter_map(|_| TcpStream::connect((node.address, ports::NODE)).ok()).collect();
    assert!(crowd.len() > 700);
    let told = node.assign_with(lead(&system_id), &[(&node, PeerRole::Primary)], &[("work_mem", "17MB")]);
    assert_eq!(told.status, 200, "{}", told.body);
    node.until("it has read them", |report| {
        report.postgres.as_ref().is_some_and(|postgres| postgres.parameters.contains_key("work_mem"))
    });
    kill(Pid::from_raw(node.postmaster_pid()), Signal::SIGKILL).unwrap();
    node.until("it runs again", |report| is_primary(report) && report.crashes == 1);
    // One who comes now is told, in words.
    let error = node.connect(ports::NODE).await.unwrap_err();
    assert!(error.code().is_none_or(|code| *code == SqlState::TOO_MANY_CONNECTIONS), "{error:?}");
    drop(crowd);
    eventually("there is room again", || async { node.connect(ports::NODE).await.is_ok() }).await;
    assert!(!node.log().contains("Too many open files"), "{}", node.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_come_and_go_leave_nothing_behind() {
    let (primary, standby, _) = pair();
    let files = |node: &Node| std::fs::read_dir(format!("/proc/{}/fd", node.agent_pid())).unwrap().count();
    standby.value(ports::READ_WRITE, "SELECT 1").await;
    let before = (files(&primary), files(&standby));
    for n in 0..60 {
        // In turn: a good session, a password that is wrong, a client that leaves in the middle of its first packet.
        match n % 3 {
            0 => drop(standby.value(ports::READ_WRITE, "SELECT 1").await),
            1 => drop(standby.connect_as(ports::READ_WRITE, "postgres", "wrong").await),
            _ => TcpStream::connect((standby.address, ports::READ_WRITE)).unwrap().write_all(&[0, 0, 0]).unwrap(),
        }
    }
    eventually("all are closed", || async {
        let page = http((standby.address, ports::METRICS).into(), "GET", "/metrics", "", None).unwrap();
        let none_open = page.body.contains("flypg_agent_connections{door=\"read_write\"} 0");
        none_open && files(&primary) <= before.0 + 2 && files(&standby) <= before.1 + 2
    })
    .await;
}
