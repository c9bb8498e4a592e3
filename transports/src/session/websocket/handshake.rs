//! The opening handshake: one HTTP request and its response.
//!
//! hyper serves one request, under the server's time limit for handshakes rather than a timer of its own. Then it is
//! taken apart into the stream and the bytes that the client sent right behind its request.
//! (`hyper::upgrade` would yield the same, but type-erased and through a channel.)

use std::convert::Infallible;
use std::future::{poll_fn, ready};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use http_body_util::Full;
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::session::websocket::linger;
use crate::session::websocket::origins::Origins;
use crate::stream::ByteStream;

/// Maximum size of a request head: the smallest that hyper accepts. Browsers send cookies along.
const MAX_HEAD: usize = 8 * 1024;

/// Answer to a connection that the server refuses, whether its request is complete or not: HTTP allows a response
/// before the end of the request.
pub(super) const TOO_MANY_CONNECTIONS: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: text/plain\r\n\
    connection: close\r\n\
    content-length: 22\r\n\r\n\
    Too many connections.\n";

/// Serves the one request of a connection. If the response is 101 (Switching Protocols), returns the stream, and the
/// bytes that were already read from it behind the request. Otherwise closes the connection and returns `None`.
pub(super) async fn serve_request<S: ByteStream>(
    stream: S,
    respond: impl Fn(&Request<Incoming>) -> Response<Full<Bytes>>,
) -> io::Result<Option<(S, Vec<u8>)>> {
    let accepted = AtomicBool::new(false);
    let service = service_fn(|request| {
        let response = respond(&request);
        let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        accepted.store(switches, Ordering::Relaxed);
        ready(Ok::<_, Infallible>(response))
    });
    // No `keep_alive(false)`: with it, hyper turns `upgrade` in the response into `upgrade, close`, which clients do
    // not accept. Each refusal says `close` itself, and hyper obeys that.
    let mut connection = http1::Builder::new()
        // A client may close its sending side behind its request and its messages.
        .half_close(true)
        .auto_date_header(false)
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let served = poll_fn(|context| connection.poll_without_shutdown(context)).await;
    let parts = connection.into_parts();
    let stream = parts.io.into_inner();
    match served {
        Ok(()) if accepted.load(Ordering::Relaxed) => {
            // A copy: converted into a vector, hyper's whole buffer would stay in the session.
            let leftover = parts.read_buf.to_vec();
            Ok(Some((stream, leftover)))
        }
        Err(error) if !error.is_parse() => Err(io::Error::other(error)),
        // A response was sent; hyper itself has answered a request that is not HTTP.
        _ => {
            linger::close(stream).await?;
            Ok(None)
        }
    }
}

/// Returns the response to an opening handshake (RFC 6455, section 4.2), or to any other request.
pub(super) fn respond<B: Body>(request: &Request<B>, origins: &Origins) -> Response<Full<Bytes>> {
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
    // The bytes of a body would look like the first message.
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

/// Returns the subprotocol that the client offers, if it offers only one: then it means that one. Choosing among
/// several would take knowing them.
fn only_protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut offered = tokens(headers, SEC_WEBSOCKET_PROTOCOL);
    let first = offered.next()?;
    match offered.next() {
        None => HeaderValue::from_str(first).ok(),
        Some(_) => None,
    }
}

/// Returns the elements of all headers of this name, each of which is a list separated by commas.
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
