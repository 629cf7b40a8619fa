//! Answers with the client's metadata as headers and as trailers. It is a layer
//! around the whole server because a method of tonic's cannot say trailers for an
//! RPC that succeeds.

use http::{HeaderMap, HeaderName, Request, Response};
use http_body_util::BodyExt;
use std::{future::Future, pin::Pin, task};
use tonic::body::Body;
use tower::{Layer, Service};

#[derive(Clone)]
pub struct EchoLayer;

impl<S> Layer<S> for EchoLayer {
    type Service = Echo<S>;

    fn layer(&self, inner: S) -> Echo<S> {
        Echo { inner }
    }
}

#[derive(Clone)]
pub struct Echo<S> {
    inner: S,
}

impl<S> Service<Request<Body>> for Echo<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut task::Context<'_>) -> task::Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (mut headers, mut trailers) = (HeaderMap::new(), HeaderMap::new());
        for suffix in ["", "-bin"] {
            let name = |base: &str| HeaderName::try_from(format!("{base}{suffix}")).unwrap();
            for value in request.headers().get_all(name("x-echo")) {
                headers.append(name("x-echo"), value.clone());
                trailers.append(name("x-trail"), value.clone());
            }
        }

        let answer = self.inner.call(request);
        Box::pin(async move {
            let mut response = answer.await?;
            append(response.headers_mut(), headers);
            // A status in the headers means that no trailers will come.
            if response.headers().contains_key("grpc-status") {
                append(response.headers_mut(), trailers);
                return Ok(response);
            }
            Ok(response.map(|body| {
                Body::new(body.map_frame(move |mut frame| {
                    if let Some(map) = frame.trailers_mut() {
                        append(map, trailers.clone());
                    }
                    frame
                }))
            }))
        })
    }
}

fn append(to: &mut HeaderMap, from: HeaderMap) {
    let mut last = None;
    for (name, value) in from {
        last = name.or(last);
        to.append(last.clone().unwrap(), value);
    }
}
