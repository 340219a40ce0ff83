//! The port that decides who may connect.

use std::net::SocketAddr;
use std::sync::Arc;

use mqtt_proto::types::{ReasonCode, Version};

use super::{AuthorizeRequest, Decision, Permission, Refusal, Ticket};

/// A CONNECT or AUTH packet to be judged.
#[derive(Clone, Copy)]
pub struct AuthenticateRequest<'a> {
    /// Where it comes from; `None` for a client inside the process.
    pub peer: Option<SocketAddr>,
    /// The version of the Client.
    pub version: Version,
    /// The ClientID that the Client sent or that was assigned to it.
    pub client_id: &'a str,
    /// Its User Name.
    pub user_name: Option<&'a str>,
    /// Its Password.
    pub password: Option<&'a [u8]>,
    /// Authentication Method: given when the Client uses enhanced authentication (section 4.12).
    pub method: Option<&'a str>,
    /// Authentication Data of this step.
    pub data: Option<&'a [u8]>,
    /// 0 for CONNECT, then counts the AUTH packets of the exchange.
    pub step: u32,
    /// The identity in force when this is a re-authentication (section 4.12.1).
    pub re_authenticates: Option<&'a Identity>,
}

impl core::fmt::Debug for AuthenticateRequest<'_> {
    /// Leaves secrets out.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("AuthenticateRequest")
            .field("peer", &self.peer)
            .field("client_id", &self.client_id)
            .field("user_name", &self.user_name)
            .field("method", &self.method)
            .field("step", &self.step)
            .finish_non_exhaustive()
    }
}

/// Who a connection acts for.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Identity {
    /// Replaces the ClientID, after a certificate or an account, say; it decides on the session and its home core.
    pub client_id: Option<Arc<str>>,
    /// The name that permissions are judged by, usually the User Name.
    pub name: Option<Arc<str>>,
}

/// The outcome of one step of authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// The Client is who it says.
    Accept(Identity),
    /// As above, with Authentication Data for the CONNACK (or AUTH) that says so.
    AcceptWith(Identity, Vec<u8>),
    /// Ask on with an AUTH packet that carries this data; only where the request has a method [MQTT-4.12.0-2].
    Continue(Vec<u8>),
    /// No; the Client is told this Reason Code (0x80 or above).
    Refuse(Refusal),
}

/// Decides who may connect.
pub trait Authenticate {
    /// Judges a CONNECT, or a further AUTH packet of the same exchange.
    fn authenticate(&mut self, request: &AuthenticateRequest<'_>, ticket: Ticket)
    -> Decision<Authentication>;
}

/// Accepts everyone without enhanced authentication and permits everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllowAll;

impl Authenticate for AllowAll {
    fn authenticate(&mut self, request: &AuthenticateRequest<'_>, _: Ticket) -> Decision<Authentication> {
        Decision::Now(match request.method {
            // [MQTT-4.12.0-1]
            Some(_) => Authentication::Refuse(ReasonCode::BAD_AUTHENTICATION_METHOD),
            None => {
                Authentication::Accept(Identity { client_id: None, name: request.user_name.map(Arc::from) })
            }
        })
    }
}

impl super::Authorize for AllowAll {
    fn authorize(&mut self, _: &AuthorizeRequest<'_>, _: Ticket) -> Decision<Permission> {
        Decision::Now(Permission::Allow)
    }
}
