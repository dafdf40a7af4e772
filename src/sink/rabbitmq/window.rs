//! A window: messages published on one channel and settled together, once the last is confirmed.
//!
//! RabbitMQ returns a message that no queue takes just before it confirms it, but other confirmations, or
//! one for many, may come in between; and the client hands the oldest return it holds to whichever
//! confirmation completes first. A single confirmation therefore says nothing of its own message. Over a
//! whole window the returns are complete, so they are matched by message id: within one, no id comes twice.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::maybe_done;
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Confirmation, Connection, Error, PublisherConfirm};

use super::link::{connection_error, open_channel};
use super::parcel::Parcel;
use super::pulse::Pulse;

/// What became of one message of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Confirmed,
    /// The broker could not take it: a queue is full, or failed.
    Nacked,
    /// No queue is bound for it.
    Returned,
    /// The channel ended before the broker's word on it.
    Unknown,
    /// It never left this process.
    Unsent,
}

/// A window's end.
#[derive(Debug)]
pub(super) struct Landing {
    /// In the order of the messages.
    pub(super) answers: Vec<Answer>,
    /// For the next window, if it still lives.
    pub(super) channel: Option<Channel>,
    /// Why it ended early, if it did.
    pub(super) error: Option<Error>,
}

/// What a confirmation said, with the id of the returned message it happened to bring.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    Ack(Option<String>),
    Nack(Option<String>),
    None,
    Unsent,
}

/// Publishes `parcels` on `channel`, or a new one, and waits for the broker's word on each.
///
/// `careful` lets each message leave before the next is handed over, so that few are caught by the end of
/// the channel that one of them may cause.
pub(super) async fn publish(
    connection: Arc<Connection>,
    channel: Option<Channel>,
    parcels: Vec<Parcel>,
    ids: Vec<Bytes>,
    careful: bool,
    pulse: Arc<Pulse>,
) -> Landing {
    let channel = match channel.filter(|channel| channel.status().connected()) {
        Some(channel) => channel,
        None => match confirming(&connection).await {
            Ok(channel) => channel,
            Err(error) => {
                return Landing {
                    answers: vec![Answer::Unsent; ids.len()],
                    channel: None,
                    error: Some(error),
                };
            }
        },
    };
    let (words, error) = converse(&channel, parcels, careful, &pulse).await;
    let channel = (error.is_none() && channel.status().connected()).then_some(channel);
    Landing { answers: settle(&words, &ids), channel, error }
}

/// A channel whose publishes are confirmed.
async fn confirming(connection: &Connection) -> lapin::Result<Channel> {
    let channel = open_channel(connection).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(connection_error)?;
    Ok(channel)
}

async fn converse(
    channel: &Channel,
    parcels: Vec<Parcel>,
    careful: bool,
    pulse: &Pulse,
) -> (Vec<Word>, Option<Error>) {
    let mut sends = Vec::with_capacity(parcels.len());
    for parcel in parcels {
        let mut send = Box::pin(maybe_done(send(channel, parcel)));
        // The first poll hands the frames to the client, in this order and without waiting for any.
        let _ = (&mut send).now_or_never();
        let sent = !matches!(send.as_mut().output_mut(), Some(Err(_)));
        if careful {
            (&mut send).await;
        }
        sends.push((send, sent));
    }
    let (mut words, mut end) = (Vec::with_capacity(sends.len()), None);
    for (mut send, sent) in sends {
        (&mut send).await;
        let published = send.as_mut().take_output().expect("it was just awaited");
        words.push(match heard(published).await {
            Ok(word) => {
                pulse.beat();
                word
            }
            Err(error) => {
                end.get_or_insert(error);
                if sent { Word::None } else { Word::Unsent }
            }
        });
    }
    (words, end)
}

async fn send(channel: &Channel, parcel: Parcel) -> lapin::Result<PublisherConfirm> {
    let Parcel { exchange, routing_key, properties, body } = parcel;
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    channel.basic_publish(exchange, routing_key, options, &body, properties).await
}

async fn heard(published: lapin::Result<PublisherConfirm>) -> lapin::Result<Word> {
    Ok(match published?.await? {
        Confirmation::Ack(returned) => Word::Ack(returned.as_ref().map(id_of)),
        Confirmation::Nack(returned) => Word::Nack(returned.as_ref().map(id_of)),
        // The channel confirms nothing: then nothing is known.
        Confirmation::NotRequested => Word::None,
    })
}

fn id_of(returned: &BasicReturnMessage) -> String {
    let id = returned.delivery.properties.message_id();
    id.as_ref().map_or(String::new(), |id| id.as_str().to_owned())
}

/// Matches the returns of a window with its messages.
///
/// The client holds at most as many returns back as there are returned messages without a confirmation,
/// so none is missing once all are confirmed. In a window that was cut short a confirmed message's return
/// may have been lost with a later confirmation; but only if the message's own confirmation took away an
/// older return. So where no return was seen, none was lost.
fn settle(words: &[Word], ids: &[Bytes]) -> Vec<Answer> {
    let returned: HashSet<&[u8]> = words
        .iter()
        .filter_map(|word| match word {
            Word::Ack(returned) | Word::Nack(returned) => returned.as_deref().map(str::as_bytes),
            Word::None | Word::Unsent => None,
        })
        .collect();
    let is_whole = !words.iter().any(|word| matches!(word, Word::None | Word::Unsent));
    let trusted = is_whole || returned.is_empty();
    let answer = |(word, id): (&Word, &Bytes)| match word {
        _ if returned.contains(&id[..]) => Answer::Returned,
        Word::Ack(_) if trusted => Answer::Confirmed,
        Word::Ack(_) | Word::None => Answer::Unknown,
        Word::Nack(_) => Answer::Nacked,
        Word::Unsent => Answer::Unsent,
    };
    words.iter().zip(ids).map(answer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Answer::{Confirmed, Nacked, Returned, Unknown, Unsent};

    fn settled(words: &[Word]) -> Vec<Answer> {
        let ids: Vec<Bytes> = (0..words.len()).map(|id| Bytes::from(id.to_string())).collect();
        settle(words, &ids)
    }

    fn ack(returned: &str) -> Word {
        Word::Ack(Some(returned.to_owned()))
    }

    #[test]
    fn a_return_that_came_with_another_s_confirmation_is_the_message_s_own() {
        let words = [ack("2"), Word::Ack(None), Word::Ack(None), Word::Nack(None)];
        assert_eq!(settled(&words), [Confirmed, Confirmed, Returned, Nacked]);
    }

    #[test]
    fn in_a_window_cut_short_a_confirmation_counts_only_if_no_return_may_be_lost() {
        assert_eq!(settled(&[Word::Ack(None), Word::None, Word::Unsent]), [Confirmed, Unknown, Unsent]);
        assert_eq!(
            settled(&[ack("3"), ack("0"), Word::None, Word::None]),
            [Returned, Unknown, Unknown, Returned]
        );
    }
}
