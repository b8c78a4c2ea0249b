"""Files by HTTP, in ranges; also what pulls from the Hugging Face Hub, whose files have plain addresses.

Only the standard library: certificates and proxies are those of the system.
"""

from __future__ import annotations

import http.client
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, NoReturn

from harfeat.share.fetch import Answer, BrokenError, ContentError, MissingError, TransferError

_BLOCK = 1 << 20
_TIMEOUT = 30.0
_AGENT = "harfeat"
_PASSING = {408, 425, 429, 500, 502, 503, 504}
"""Statuses of a server that may be well again in a moment."""


@dataclass(frozen=True)
class HttpSource:
    """A file at an http(s) address; `token` is sent to its first host only, not where that one redirects to."""

    url: str
    token: str | None = None
    timeout: float = _TIMEOUT

    @property
    def name(self) -> str:
        """The address without a query, which may hold a signature."""
        return self.url.partition("?")[0]

    def open(self, start: int, validator: str | None) -> Answer:
        """Ask for the file from byte `start` on."""
        request = urllib.request.Request(self.url, headers={"User-Agent": _AGENT, "Accept-Encoding": "identity"})
        if start:
            request.add_header("Range", f"bytes={start}-")
            # A weak validator does not promise equal bytes, and servers refuse it in If-Range.
            if validator is not None:
                request.add_header("If-Range", validator)
        if self.token is not None:
            request.add_unredirected_header("Authorization", f"Bearer {self.token}")
        try:
            response = urllib.request.build_opener(_Redirects).open(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            error.close()
            self._explain(error.code, start)
        except urllib.error.URLError as error:
            raise BrokenError(f"cannot be reached ({error.reason})") from error
        except (http.client.HTTPException, OSError) as error:
            raise BrokenError(f"cannot be reached ({error or type(error).__name__})") from error
        try:
            return self._answer(response)
        except BaseException:
            response.close()
            raise

    def _answer(self, response: http.client.HTTPResponse) -> Answer:
        headers = response.headers
        validator = headers.get("ETag") or headers.get("Last-Modified")
        if validator is not None and validator.startswith("W/"):
            validator = None
        length = headers.get("Content-Length", "")
        if response.status == 206:
            told = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", headers.get("Content-Range", ""))
            if told is None:
                raise TransferError(f"{self.name}: answers a range without saying which")
            total = None if told[2] == "*" else int(told[2])
            return Answer(int(told[1]), total, validator, _blocks(response))
        total = int(length) if re.fullmatch(r"\d{1,18}", length) else None
        return Answer(0, total, validator, _blocks(response))

    def _explain(self, status: int, start: int) -> NoReturn:
        phrase = http.client.responses.get(status, "")
        if status in (404, 410):
            raise MissingError(f"{self.name}: not there ({status} {phrase})")
        if status in (401, 403):
            raise TransferError(f"{self.name}: access refused ({status} {phrase}); log in, or ask its owner")
        if status == 416 and start:
            raise ContentError(f"{self.name}: shorter than promised ({status} {phrase}); try again")
        if status in _PASSING:
            raise BrokenError(f"the server answers {status} {phrase}")
        raise TransferError(f"{self.name}: the server answers {status} {phrase}")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Takes the token along within one host, as the Hub wants it for small files, and to no other."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """The request that follows a redirect."""
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        token = req.get_header("Authorization")
        if following is not None and token is not None and _host(req.full_url) == _host(newurl):
            following.add_unredirected_header("Authorization", token)
        return following

    # Python 3.10 does not know this one.
    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302


def _host(url: str) -> tuple[str, str]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.netloc


def _blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while block := response.read1(_BLOCK):
            yield block
    except (http.client.HTTPException, OSError) as error:
        raise BrokenError(f"the connection broke ({error or type(error).__name__})") from error
    finally:
        response.close()
