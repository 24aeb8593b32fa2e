//! Why a resource is as it is: the closed list of reasons that conditions, Events and
//! `headwater validate` use.
//!
//! A reason is for programs and for searching; the message beside it says what to do. A reason, once
//! released, keeps its meaning.

use std::fmt;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident: $class:ident,)+) => {
        /// Every reason that there is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Reason {
            /// All reasons, for the reference and for tests.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// What the resource's owner has to do about it.
            pub fn class(self) -> Class {
                match self {
                    $(Self::$name => Class::$class,)+
                }
            }

            /// The reason as conditions show it, CamelCase.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }
        }
    };
}

/// What a reason asks of a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Nothing: the resource works, or was told not to.
    Good,
    /// The operator is at work on it.
    Working,
    /// It works once something else is there; the operator looks again by itself.
    Waits,
    /// The resource itself, or what it points to, has to be changed.
    Stalls,
    /// It works, but somebody should know.
    Warns,
}

reasons! {
    /// It does what it says.
    Available: Good,
    /// `suspend: true`: no pods run, topics and positions are kept.
    Suspended: Good,
    /// Pods are starting, or being replaced by ones with the newest configuration.
    RollingOut: Working,
    /// A view is being built as another generation, beside the one that is read, or waits for that.
    BuildingGeneration: Working,
    /// Another generation of a view is ready, and its readers go over to it.
    MovingReaders: Working,
    /// The resource is being deleted, and its topics with it.
    Deleting: Working,
    /// A resource or topic that it names does not exist (yet).
    NotFound: Waits,
    /// A resource that it names does not work itself.
    DependencyNotReady: Waits,
    /// A Secret, or a key in it, does not exist (yet).
    MissingSecret: Waits,
    /// Kafka does not answer.
    KafkaUnreachable: Waits,
    /// The API server did not do as asked; it is asked again.
    ApiServerFailed: Waits,
    /// The fields contradict one another or the rules of the resource.
    InvalidSpec: Stalls,
    /// A CEL expression that can not work.
    InvalidExpression: Stalls,
    /// A Jinja template that can not work.
    InvalidTemplate: Stalls,
    /// A JSON Schema that can not work.
    InvalidSchema: Stalls,
    /// A field that this version of Headwater does not do.
    NotSupported: Stalls,
    /// A setting outside of what may be set, or a topic outside of what may be used.
    NotAllowed: Stalls,
    /// Another EventSource stands for the same topic.
    DuplicateTopic: Stalls,
    /// A topic that Headwater keeps its own state in.
    ReservedTopic: Stalls,
    /// What has to be on one Kafka cluster is on several.
    DifferentClusters: Stalls,
    /// A Secret of a type that is never sent anywhere.
    ForbiddenSecret: Stalls,
    /// A credential that stands in the resource as text.
    PlainTextCredential: Stalls,
    /// An object of this name exists and belongs to somebody else.
    NameTaken: Stalls,
    /// Kafka refuses: authentication, authorisation or a policy.
    KafkaRefused: Stalls,
    /// The topic in Kafka is other than the resource says, in a way that can not be changed.
    TopicDiffers: Stalls,
    /// The sources do not hold all that the view, as it is now, is folded from; the generation before goes on serving.
    RebuildIncomplete: Stalls,
    /// A credential goes over an unencrypted connection.
    UnencryptedCredential: Warns,
    /// Keys are written in another way than they are read.
    UnreadableKey: Warns,
    /// The topics stayed behind after the resource was deleted.
    TopicsLeft: Warns,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
