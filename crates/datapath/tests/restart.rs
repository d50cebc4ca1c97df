//! A loader that ends and the next that takes over, while pods talk.
//!
//! Needs root.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod world;

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use world::{SOON, TestNode, node_addresses, until};

#[test]
fn a_connection_goes_on_while_the_loader_is_replaced() {
    let mut node = TestNode::new();
    let (one, two) = (node.pod(1), node.pod(2));
    let listener = two.space.within(|| TcpListener::bind((two.v4(), 0)).unwrap());
    let mut client = one.space.within(|| TcpStream::connect(listener.local_addr().unwrap()).unwrap());
    let (mut server, _) = listener.accept().unwrap();
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
    }
    let (stop, echoed) = (AtomicBool::new(false), AtomicU64::new(0));
    let entries = node.within(|node| node.entries()).unwrap();
    let before = node.counters(&one);

    thread::scope(|scope| {
        scope.spawn(|| {
            let mut bytes = [0; 1000];
            while let Ok(read @ 1..) = server.read(&mut bytes) {
                server.write_all(&bytes[..read]).unwrap();
            }
        });
        let talk = scope.spawn(|| {
            let (sent, mut back) = ([5; 1000], [0; 1000]);
            let mut slowest = Duration::ZERO;
            while !stop.load(Ordering::Relaxed) {
                let start = std::time::Instant::now();
                client.write_all(&sent).unwrap();
                client.read_exact(&mut back).unwrap();
                slowest = slowest.max(start.elapsed());
                echoed.fetch_add(1, Ordering::Relaxed);
            }
            client.shutdown(std::net::Shutdown::Both).unwrap();
            slowest
        });
        let progress = || {
            let now = echoed.load(Ordering::Relaxed);
            until("the connection goes on", || echoed.load(Ordering::Relaxed) > now + 100);
        };
        progress();
        for _ in 0..3 {
            // The process ends ...
            node.node = None;
            progress();
            // ... and the next begins.
            node.open();
            progress();
        }
        // Two at a time, as in an upgrade that overlaps.
        let old = node.node.take();
        node.open();
        drop(old);
        progress();
        stop.store(true, Ordering::Relaxed);
        talk.join().unwrap();
    });

    assert_eq!(node.within(|node| node.entries()).unwrap(), entries);
    let after = node.counters(&one);
    assert!(after.tx_packets > before.tx_packets && after.rx_packets > before.rx_packets, "counters go on");
    for pod in [&one, &two] {
        let name = &pod.links.host_ifname;
        assert!(node.within(|node| node.is_joined(name, pod.host_ifindex, &pod.links.netns)).unwrap());
    }
    assert_eq!(node.space.ping(one.v4(), 3), 3);
}

/// Nothing repeats a datagram, and the next question waits for the answer: one that is lost ends the test.
#[test]
fn no_datagram_is_lost_while_the_loader_is_replaced() {
    let mut node = TestNode::new();
    let (one, two) = (node.pod(1), node.pod(2));
    let server = two.space.within(|| UdpSocket::bind((two.v4(), 0)).unwrap());
    let client = one.space.within(|| UdpSocket::bind((one.v4(), 0)).unwrap());
    client.connect(server.local_addr().unwrap()).unwrap();
    for socket in [&client, &server] {
        socket.set_read_timeout(Some(SOON)).unwrap();
    }
    let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));

    thread::scope(|scope| {
        scope.spawn(|| {
            let mut question = [0; 8];
            while let Ok((8, from)) = server.recv_from(&mut question) {
                server.send_to(&question, from).unwrap();
            }
        });
        let talk = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let question = answered.load(Ordering::Relaxed).to_be_bytes();
                client.send(&question).unwrap();
                let mut answer = [0; 8];
                client.recv(&mut answer).unwrap();
                assert_eq!(answer, question);
                answered.fetch_add(1, Ordering::Relaxed);
            }
            client.send(&[]).unwrap();
        });
        let progress = || {
            let now = answered.load(Ordering::Relaxed);
            until("questions are answered", || {
                answered.load(Ordering::Relaxed) > now + 100 || talk.is_finished()
            });
        };
        for overlaps in [false, true, false, true] {
            progress();
            let old = node.node.take().filter(|_| overlaps);
            progress();
            node.open();
            progress();
            drop(old);
        }
        stop.store(true, Ordering::Relaxed);
        talk.join().unwrap();
    });
}

#[test]
fn the_programs_are_those_of_the_new_loader() {
    let mut node = TestNode::new();
    let pod = node.pod(1);
    assert_eq!(pod.space.ping(node_addresses()[0], 3), 3);
    // A loader with another mark: its guard accepts only what its programs marked.
    node.node = None;
    node.config.local_mark = 0x1234;
    node.open();
    assert!(node.space.sh("nft list table inet kuryr").contains("0x00001234"));
    assert_eq!(pod.space.ping(node_addresses()[0], 3), 3);
    assert_eq!(node.space.ping(pod.v6(), 3), 3);
}

#[test]
fn what_vanished_while_nobody_looked_is_forgotten() {
    let mut node = TestNode::new();
    let (one, two) = (node.pod(1), node.pod(2));
    node.node = None;
    drop(one);
    until("the host end is gone", || !node.space.links().iter().any(|(_, name)| name == "krp1"));
    node.open();
    let swept = node.within(|node| node.sweep(&["krp2".to_owned()].into())).unwrap();
    assert_eq!((swept.links, swept.entries), (0, 1));
    assert_eq!(two.space.ping(node_addresses()[0], 3), 3);
}
