//! Standard output as a broker: one JSON line a record, for looking and for pipes.
//!
//! A record is confirmed once its line has been written and flushed. The format is documented in
//! `docs/record.md`.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

use serde::Serialize;

use super::inbox::Inbox;
use super::{ErrorType, Failure, Fault, Record, Shipment, Sink, SinkEvent, Token};
use crate::message::RowRef;

/// Lines on standard output, or on any other writer.
///
/// A thread of its own writes them, since a reader that does not read blocks the write.
pub struct StdoutSink {
    desk: Arc<Desk>,
}

/// What the sink and its thread share.
#[derive(Default)]
struct Desk {
    work: Mutex<Work>,
    changed: Condvar,
    inbox: Inbox,
}

#[derive(Default)]
struct Work {
    waiting: VecDeque<Vec<Shipment>>,
    /// The batch that is being written; empty once a purge has given up on it.
    writing: Vec<Token>,
    closed: bool,
}

impl StdoutSink {
    #[must_use]
    pub fn new() -> Self {
        Self::to(io::stdout())
    }

    /// Lines to `output`.
    #[must_use]
    pub fn to(output: impl Write + Send + 'static) -> Self {
        let desk = Arc::new(Desk::default());
        let shared = Arc::clone(&desk);
        thread::Builder::new()
            .name("stdout-sink".to_owned())
            .spawn(move || shared.write_all(output))
            .expect("the system has a thread to spare at start");
        Self { desk }
    }
}

impl Default for StdoutSink {
    fn default() -> Self {
        Self::new()
    }
}

impl Sink for StdoutSink {
    async fn open(&mut self, _epoch: u64) -> Result<Vec<RowRef>, Failure> {
        self.desk.give_up();
        // What an earlier epoch is owed was just reported: nobody asks for it any more.
        self.desk.inbox.clear();
        Ok(Vec::new())
    }

    fn publish(&mut self, shipments: Vec<Shipment>) {
        if !shipments.is_empty() {
            self.desk.work().waiting.push_back(shipments);
            self.desk.changed.notify_one();
        }
    }

    async fn events(&mut self) -> Vec<SinkEvent> {
        self.desk.inbox.take(1).await
    }

    fn purge(&mut self) {
        self.desk.give_up();
    }

    async fn close(&mut self) {
        self.desk.give_up();
        self.desk.close();
    }
}

impl Drop for StdoutSink {
    /// The thread may be stuck in a write; it ends with it, or with the process.
    fn drop(&mut self) {
        self.desk.close();
    }
}

impl fmt::Debug for StdoutSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StdoutSink").finish_non_exhaustive()
    }
}

impl Desk {
    /// The thread: writes one batch after the other until the sink is closed.
    fn write_all(&self, mut output: impl Write) {
        while let Some(batch) = self.next_batch() {
            let result = write_batch(&mut output, &batch);
            // Under the lock, so that a purge has either not begun or taken these tokens.
            let mut work = self.work();
            for token in std::mem::take(&mut work.writing) {
                self.inbox.outcome(token, result.clone());
            }
        }
    }

    fn next_batch(&self) -> Option<Vec<Shipment>> {
        let mut work = self.work();
        loop {
            if work.closed {
                return None;
            }
            if let Some(batch) = work.waiting.pop_front() {
                work.writing = batch.iter().map(|shipment| shipment.token).collect();
                return Some(batch);
            }
            work = self.changed.wait(work).expect("no thread panics while it holds the work");
        }
    }

    fn give_up(&self) {
        let mut work = self.work();
        let purged = |maybe_published| Failure {
            fault: Fault::Unavailable,
            error_type: ErrorType::Purged,
            maybe_published,
            reason: "given up before it was written".into(),
        };
        for token in std::mem::take(&mut work.writing) {
            self.inbox.outcome(token, Err(purged(true)));
        }
        for shipment in std::mem::take(&mut work.waiting).into_iter().flatten() {
            self.inbox.outcome(shipment.token, Err(purged(false)));
        }
    }

    fn close(&self) {
        self.work().closed = true;
        self.changed.notify_one();
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().expect("no thread panics while it holds the work")
    }
}

fn write_batch(output: &mut impl Write, batch: &[Shipment]) -> Result<(), Failure> {
    let mut lines = Vec::new();
    for shipment in batch {
        write_line(&mut lines, &shipment.record);
    }
    output.write_all(&lines).and_then(|()| output.flush()).map_err(|error| {
        let reason = format!("could not write to standard output: {error}");
        Failure::unknown(Fault::Fatal, ErrorType::Other, reason)
    })
}

fn write_line(lines: &mut Vec<u8>, record: &Record) {
    let line = Line {
        topic: record.destination.name(),
        key: record.key.as_deref().map(Value::new),
        headers: record.headers.iter().map(|h| (&*h.name, h.value.as_deref().map(Value::new))).collect(),
        timestamp: record.timestamp_ms,
        payload: record.body.as_deref().map(Value::new),
    };
    serde_json::to_writer(&mut *lines, &line).expect("strings and numbers always make JSON");
    lines.push(b'\n');
}

#[derive(Serialize)]
struct Line<'a> {
    topic: &'a str,
    key: Option<Value<'a>>,
    /// Pairs and no object: names may repeat, and their order is part of the record.
    headers: Vec<(&'a str, Option<Value<'a>>)>,
    timestamp: Option<i64>,
    payload: Option<Value<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Value<'a> {
    Text(&'a str),
    Binary { base64: String },
}

impl<'a> Value<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        std::str::from_utf8(bytes).map_or_else(|_| Self::Binary { base64: base64(bytes) }, Self::Text)
    }
}

/// RFC 4648 with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit)) & 63;
            text.push(if digit > chunk.len() { '=' } else { char::from(ALPHABET[index as usize]) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use bytes::Bytes;

    use super::*;
    use crate::message::Header;
    use crate::sink::{Destination, Outcome};

    fn record(body: Option<&'static [u8]>) -> Record {
        Record {
            destination: Destination::Topic("orders".into()),
            key: Some(Bytes::from_static(b"k\"1")),
            headers: vec![
                Header { name: "id".into(), value: Some(Bytes::from_static(b"7")) },
                Header { name: "id".into(), value: None },
            ],
            body: body.map(Bytes::from_static),
            timestamp_ms: Some(1_700_000_000_123),
            properties: None,
        }
    }

    fn shipments(tokens: std::ops::Range<u64>) -> Vec<Shipment> {
        let record = Arc::new(record(Some(b"{}")));
        tokens.map(|token| Shipment { token: Token(token), record: Arc::clone(&record) }).collect()
    }

    fn line(record: &Record) -> String {
        let mut lines = Vec::new();
        write_line(&mut lines, record);
        String::from_utf8(lines).expect("JSON is text")
    }

    async fn outcomes(sink: &mut StdoutSink, count: usize) -> Vec<Outcome> {
        let mut all = Vec::new();
        while all.len() < count {
            for event in sink.events().await {
                match event {
                    SinkEvent::Outcomes(outcomes) => all.extend(outcomes),
                    SinkEvent::Down(_) | SinkEvent::Up => unreachable!("standard output is never down"),
                }
            }
        }
        all
    }

    /// Reports each write and waits for its result.
    struct Gate {
        writes: mpsc::Sender<Vec<u8>>,
        results: mpsc::Receiver<io::Result<()>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.writes.send(bytes.to_vec()).expect("the test listens");
            self.results.recv().unwrap_or(Ok(())).map(|()| bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated() -> (StdoutSink, mpsc::Receiver<Vec<u8>>, mpsc::Sender<io::Result<()>>) {
        let (writes, written) = mpsc::channel();
        let (result, results) = mpsc::channel();
        (StdoutSink::to(Gate { writes, results }), written, result)
    }

    #[test]
    fn a_record_is_one_line_of_json() {
        assert_eq!(
            line(&record(Some(b"a\nb"))),
            "{\"topic\":\"orders\",\"key\":\"k\\\"1\",\"headers\":[[\"id\",\"7\"],[\"id\",null]],\
             \"timestamp\":1700000000123,\"payload\":\"a\\nb\"}\n"
        );
    }

    #[test]
    fn a_tombstone_is_null_and_bytes_that_are_no_text_are_base64() {
        assert!(line(&record(None)).contains("\"payload\":null"));
        assert!(line(&record(Some(b""))).contains("\"payload\":\"\""));
        assert!(line(&record(Some(b"\xff\x00"))).contains("\"payload\":{\"base64\":\"/wA=\"}"));
    }

    #[test]
    fn base64_is_that_of_the_standard() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xef, 0xff]), "++//");
    }

    #[tokio::test]
    async fn a_line_is_confirmed_after_it_was_written() {
        use futures_util::FutureExt as _;
        let (mut sink, written, result) = gated();
        sink.publish(shipments(0..3));
        let lines = written.recv().expect("a write");
        assert_eq!(lines.iter().filter(|byte| **byte == b'\n').count(), 3);
        assert_eq!(sink.events().now_or_never(), None);
        result.send(Ok(())).expect("the sink waits");
        let expected: Vec<_> = (0..3).map(|token| Outcome { token: Token(token), result: Ok(()) }).collect();
        assert_eq!(outcomes(&mut sink, 3).await, expected);
    }

    #[tokio::test]
    async fn a_reader_that_went_away_is_fatal() {
        let (mut sink, _written, result) = gated();
        result.send(Err(io::ErrorKind::BrokenPipe.into())).expect("the sink waits");
        sink.publish(shipments(0..1));
        let failure = outcomes(&mut sink, 1).await.remove(0).result.expect_err("a failure");
        assert_eq!(failure.fault, Fault::Fatal);
        assert!(failure.maybe_published, "{failure}");
    }

    #[tokio::test]
    async fn a_purge_gives_up_what_waits_behind_a_reader_that_does_not_read() {
        let (mut sink, written, result) = gated();
        sink.publish(shipments(0..1));
        written.recv().expect("a write");
        sink.publish(shipments(1..2));
        sink.purge();
        let outcomes = outcomes(&mut sink, 2).await;
        let unknown: Vec<bool> =
            outcomes.iter().map(|o| o.result.as_ref().expect_err("purged").maybe_published).collect();
        assert_eq!(unknown, [true, false]);
        result.send(Ok(())).expect("the sink waits");
        result.send(Ok(())).expect("the sink waits");
        sink.publish(shipments(2..3));
        assert_eq!(super::tests::outcomes(&mut sink, 1).await, [Outcome { token: Token(2), result: Ok(()) }]);
    }
}
