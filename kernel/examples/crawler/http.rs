//! As much HTTP as the crawler needs: to ask for a page, and a small site to ask.

use std::{io, net::SocketAddr, time::Duration};

use kernel::{
    net::{TcpListener, TcpStream},
    sleep,
};

/// Asks a server for a page, and reads to the end of the connection.
pub async fn get(server: SocketAddr, path: String) -> io::Result<String> {
    let stream = TcpStream::connect(server).await?;
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let (mut answer, mut buf) = (Vec::new(), [0; 4096]);
    while let n @ 1.. = stream.read(&mut buf).await? {
        answer.extend_from_slice(&buf[..n]);
    }
    let answer = String::from_utf8_lossy(&answer);
    let head_and_body = answer.split_once("\r\n\r\n");
    let (head, body) = head_and_body.ok_or(io::ErrorKind::UnexpectedEof)?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_string()),
        status => Err(io::Error::other(status.unwrap_or("no status").to_string())),
    }
}

/// Serves the site until the task is cancelled.
pub async fn site(listener: TcpListener) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        kernel::spawn(serve(stream));
    }
}

/// One request. `/slow` takes an hour; one page has a link to what is not there.
async fn serve(stream: TcpStream) -> io::Result<()> {
    let (mut request, mut buf) = (Vec::new(), [0; 1024]);
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buf).await? {
            0 => return Ok(()),
            n => request.extend_from_slice(&buf[..n]),
        }
    }
    let request = String::from_utf8_lossy(&request);
    let links: &[&str] = match request.split(' ').nth(1) {
        Some("/") => &["/a", "/b", "/slow"],
        Some("/a") => &["/b", "/a/1", "/gone"],
        Some("/b" | "/a/1") => &["/"],
        Some("/slow") => return Ok(sleep(Duration::from_secs(3600)).await?),
        _ => return stream.write_all(b"HTTP/1.0 404 Not Found\r\n\r\n").await,
    };
    let links = links
        .iter()
        .map(|to| format!("<a href=\"{to}\">{to}</a>\n"));
    let answer = format!("HTTP/1.0 200 OK\r\n\r\n{}", links.collect::<String>());
    stream.write_all(answer.as_bytes()).await
}
