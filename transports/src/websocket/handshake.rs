//! From an HTTP request to a WebSocket session, or to an answer that says why not.
//!
//! hyper serves one request, under the server's time limit for handshakes rather than a timer of its
//! own. Then it is taken apart: what is left of it is the socket, and the bytes that a hasty client sent
//! right behind its request. (`hyper::upgrade` would hand over the same, but type-erased, and through a
//! channel.)

use std::convert::Infallible;
use std::future::{poll_fn, ready};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use http_body_util::Full;
use hyper::body::{Body, Bytes};
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::origins::Origins;
use super::part;
use super::session::WebSocketSession;
use crate::tcp_socket::TcpSocket;
use crate::{Established, Handshake, Limits};

/// The longest request head, the least that hyper can be held to. Browsers send cookies along.
const HEAD: usize = 8 * 1024;

/// Answers whatever request is under way, or about to come. HTTP allows an answer before the end of a request.
const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: text/plain\r\n\
    connection: close\r\n\
    content-length: 22\r\n\r\n\
    Too many connections.\n";

/// A connection that is about to send its request.
pub(super) struct Arrival {
    pub(super) stream: TcpSocket,
    pub(super) limits: Limits,
    pub(super) origins: Arc<Origins>,
}

#[async_trait]
impl Handshake for Arrival {
    async fn establish(self: Box<Self>) -> io::Result<Option<Established>> {
        let Arrival {
            stream,
            limits,
            origins,
        } = *self;
        shake(stream, limits, &origins).await
    }

    fn refuse(self: Box<Self>) {
        self.stream.close_with(TOO_MANY);
    }
}

/// Serves the one request of a connection. `None` if it led to no session; it was answered then.
async fn shake(
    stream: TcpSocket,
    limits: Limits,
    origins: &Origins,
) -> io::Result<Option<Established>> {
    let accepted = AtomicBool::new(false);
    let service = service_fn(|request| {
        let response = answer(&request, origins);
        let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        accepted.store(switching, Ordering::Relaxed);
        ready(Ok::<_, Infallible>(response))
    });
    // No `keep_alive(false)`: with it, hyper makes `upgrade` in the response `upgrade, close`, which is
    // not what clients look for. Each refusal says `close` itself, and that is heeded.
    let mut connection = http1::Builder::new()
        // A client may close its sending side behind its request and its messages.
        .half_close(true)
        .auto_date_header(false)
        .header_read_timeout(None)
        .max_buf_size(HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let served = poll_fn(|context| connection.poll_without_shutdown(context)).await;
    let parts = connection.into_parts();
    let stream = parts.io.into_inner();
    match served {
        Ok(()) if accepted.load(Ordering::Relaxed) => {
            // A copy: turned into a vector, hyper's whole buffer would live on in the session.
            let leftover = parts.read_buf.to_vec();
            drop(parts.read_buf);
            let session = WebSocketSession::new(stream, leftover, limits).await;
            Ok(Some(Established::new(session)))
        }
        Err(error) if !error.is_parse() => Err(io::Error::other(error)),
        // A response was written; hyper has answered by itself what is no HTTP.
        _ => {
            part(stream).await?;
            Ok(None)
        }
    }
}

/// The response to an opening handshake (RFC 6455, section 4.2), or to anything else.
fn answer<B: Body>(request: &Request<B>, origins: &Origins) -> Response<Full<Bytes>> {
    let headers = request.headers();
    if request.method() != Method::GET {
        let mut response = refusal(
            StatusCode::METHOD_NOT_ALLOWED,
            "Only GET opens a WebSocket.\n",
        );
        set(&mut response, ALLOW, "GET");
        return response;
    }
    let upgrades = tokens(headers, CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"))
        && tokens(headers, UPGRADE).any(|token| token.eq_ignore_ascii_case("websocket"));
    if !upgrades {
        return upgrade_required("This is a WebSocket port.\n");
    }
    if headers
        .get(SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        let mut response = upgrade_required("The WebSocket version must be 13.\n");
        set(&mut response, SEC_WEBSOCKET_VERSION, "13");
        return response;
    }
    // The bytes of a body could not be told from the first message.
    if request.version() < Version::HTTP_11 || !request.body().is_end_stream() {
        let reason = "A WebSocket is opened by HTTP/1.1 without a body.\n";
        return refusal(StatusCode::BAD_REQUEST, reason);
    }
    if !origins.admit(headers) {
        let reason = "Pages of this origin may not open a WebSocket here.\n";
        return refusal(StatusCode::FORBIDDEN, reason);
    }
    let accept = headers
        .get(SEC_WEBSOCKET_KEY)
        .filter(|key| !key.is_empty())
        .and_then(|key| HeaderValue::try_from(derive_accept_key(key.as_bytes())).ok());
    let Some(accept) = accept else {
        return refusal(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing.\n");
    };

    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    set(&mut response, CONNECTION, "upgrade");
    set(&mut response, UPGRADE, "websocket");
    response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(protocol) = only_protocol(headers) {
        response
            .headers_mut()
            .insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    response
}

/// The subprotocol that the client offers, if it offers one alone: that it must mean. To choose from
/// several one would have to know them.
fn only_protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut offered = tokens(headers, SEC_WEBSOCKET_PROTOCOL);
    let first = offered.next()?;
    match offered.next() {
        None => HeaderValue::from_str(first).ok(),
        Some(_) => None,
    }
}

/// The elements of all headers of that name, each a list with commas.
fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

fn upgrade_required(reason: &'static str) -> Response<Full<Bytes>> {
    let mut response = refusal(StatusCode::UPGRADE_REQUIRED, reason);
    set(&mut response, CONNECTION, "upgrade, close");
    set(&mut response, UPGRADE, "websocket");
    response
}

fn refusal(status: StatusCode, reason: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(reason));
    *response.status_mut() = status;
    set(&mut response, CONTENT_TYPE, "text/plain");
    set(&mut response, CONNECTION, "close");
    response
}

fn set(response: &mut Response<Full<Bytes>>, name: HeaderName, value: &'static str) {
    response
        .headers_mut()
        .insert(name, HeaderValue::from_static(value));
}
