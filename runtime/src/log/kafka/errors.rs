//! librdkafka's errors, by what the caller may do about them.

use crate::log::Error;
use headwater_kafka::error::is_unreachable;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// Of an administrative request.
pub(super) fn admin(error: headwater_kafka::Error) -> Error {
    use headwater_kafka::Error as Admin;
    match error {
        Admin::UnknownTopic(topic) => Error::UnknownTopic(topic),
        Admin::Unreachable { servers, reason } => Error::Unavailable {
            what: format!("ask {servers}"),
            reason,
        },
        Admin::Other { what, reason } => Error::Unavailable { what, reason },
        error => Error::Fatal {
            what: "administer topics".to_owned(),
            reason: error.to_string(),
        },
    }
}

/// Of any other request.
pub(super) fn client(what: &str, error: &KafkaError) -> Error {
    let code = match error {
        // Texts of errors that rdkafka gives no code for: wrong use of it, or wrong configuration.
        KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_) | KafkaError::Nul(_) => None,
        error => error.rdkafka_error_code(),
    };
    by_code(
        what,
        code.unwrap_or(Code::InvalidArgument),
        error.to_string(),
    )
}

pub(super) fn by_code(what: &str, code: Code, reason: String) -> Error {
    let what = what.to_owned();
    if is_fenced(code) {
        return Error::Fenced { reason };
    }
    if is_unreachable(code) || is_passing(code) {
        return Error::Unavailable { what, reason };
    }
    Error::Fatal { what, reason }
}

pub(super) fn is_fenced(code: Code) -> bool {
    matches!(
        code,
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch | Code::FencedInstanceId
    )
}

/// What a group says to offsets of one that is no member of it any more.
pub(super) fn is_of_the_group(code: Code) -> bool {
    matches!(
        code,
        Code::UnknownMemberId | Code::IllegalGeneration | Code::FencedInstanceId
    )
}

/// Lack of a right, of a login, or of a broker that can.
pub(super) fn needs_a_person(code: Code) -> bool {
    matches!(
        code,
        Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
            | Code::SaslAuthenticationFailed
            | Code::UnsupportedSASLMechanism
            | Code::UnsupportedVersion
            | Code::UnsupportedFeature
            | Code::OffsetMetadataTooLarge
    )
}

/// Wrong with this record, whatever the number of tries.
pub(super) fn is_of_the_record(code: Code) -> bool {
    matches!(
        code,
        Code::MessageSizeTooLarge
            | Code::InvalidMessageSize
            | Code::MessageBatchTooLarge
            | Code::InvalidMessage
            | Code::InvalidRecord
            | Code::InvalidTimestamp
            | Code::InvalidTopic
            | Code::UnknownTopic
            | Code::UnknownTopicOrPartition
            | Code::UnknownPartition
    )
}

/// States of Kafka that pass by themselves.
fn is_passing(code: Code) -> bool {
    matches!(
        code,
        Code::UnknownTopicOrPartition
            | Code::UnknownTopic
            | Code::UnknownPartition
            | Code::ReplicaNotAvailable
            | Code::UnstableOffsetCommit
            | Code::RebalanceInProgress
            | Code::FencedLeaderEpoch
            | Code::UnknownLeaderEpoch
            | Code::OffsetNotAvailable
            | Code::KafkaStorageError
            | Code::State
            | Code::PurgeQueue
            | Code::PurgeInflight
            | Code::Retry
    )
}
