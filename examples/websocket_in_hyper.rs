//! A lock server inside your own HTTP server: hyper serves `/` as it likes, and what upgrades at `/locks` is a
//! connection of the lock server. An axum server does the same with its upgraded connections.
//!
//! ```text
//! cargo run --example websocket_in_hyper
//! ```

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};

use futures_util::{SinkExt, StreamExt};
use glockd::Server;
use glockd::transports::{
    Channel, ChannelSender, Limits, Origins, Peer, Pending, WebSocketFraming, WebSocketSession,
};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::Message;

type Error = Box<dyn std::error::Error>;

/// The way from the HTTP server to the lock server.
#[derive(Clone)]
struct Locks {
    /// Answers the handshakes.
    framing: WebSocketFraming,
    /// Takes the connections.
    sender: ChannelSender,
}

/// Answers a request. If it upgrades its connection, sends the connection to the lock server.
async fn respond(
    mut request: Request<Incoming>,
    peer: SocketAddr,
    locks: Locks,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() != "/locks" {
        return Ok(Response::new(Full::from("a page\n")));
    }
    let response = locks.framing.respond(&request);
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let upgrade = hyper::upgrade::on(&mut request);
        // In a task, because the connection is upgraded only after the response.
        tokio::spawn(async move {
            let Ok(upgraded) = upgrade.await else {
                return;
            };
            let stream = TokioIo::new(upgraded);
            let session = WebSocketSession::new(stream, Vec::new(), Limits::default()).await;
            // Fails if the lock server has stopped; then the connection is closed.
            let _ = locks.sender.send(Pending::ready(Peer::from(peer), session));
        });
    }
    Ok(response)
}

/// Serves HTTP until the task is aborted.
async fn serve_http(listener: TcpListener, locks: Locks) {
    while let Ok((stream, peer)) = listener.accept().await {
        let locks = locks.clone();
        let service = service_fn(move |request| respond(request, peer, locks.clone()));
        let connection = http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::spawn(connection);
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let (channel, sender) = Channel::new("the HTTP server");
    let server = Server::builder().transport(channel).bind().await?;
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(server.run(async { drop(stopped.await) }));

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    // Pages of other sites must not take locks; programs, which send no origin, may.
    let framing = WebSocketFraming::default().origins(Origins::parse("same")?);
    let http = tokio::spawn(serve_http(listener, Locks { framing, sender }));

    let mut page = TcpStream::connect(address).await?;
    page.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await?;
    let mut response = String::new();
    page.read_to_string(&mut response).await?;
    println!("/: {}", response.lines().last().unwrap_or_default());

    let stream = TcpStream::connect(address).await?;
    let url = format!("ws://{address}/locks");
    let (mut client, _) = tokio_tungstenite::client_async(url, stream).await?;
    client.send(Message::text("g foo")).await?;
    if let Some(reply) = client.next().await {
        print!("/locks: {}", reply?.to_text()?);
    }

    // The lock server closes its connections. The HTTP server goes on.
    drop(stop);
    running.await?;
    if let Some(Ok(Message::Close(Some(close)))) = client.next().await {
        println!("closed with {}", close.code);
    }
    http.abort();
    Ok(())
}
