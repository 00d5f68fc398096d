"""Downloads against servers on loopback that stop, change, lie and ask for accounts; and odd answers of a STAC API."""

import gzip
import hashlib
import re
from datetime import UTC, datetime

import pytest
from small_stac import Quiet, Server

from sartransfer.errors import FetchError, InputError
from sartransfer.fetch.download import TOKEN, Remote, download, origin_of
from sartransfer.fetch.grd import plain_name, product_files
from sartransfer.fetch.stac import ENDPOINTS, acquisition_of, own_endpoint

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")

pystac = pytest.importorskip("pystac")

XML = b"<product>" + bytes(range(97, 123)) * 40 + b"</product>"
PAGE = b"<!DOCTYPE html><html>Please sign in</html>"


class Odd(Server):
    """Answers one file, in the ways that `how` names."""

    def __init__(self, data=XML):
        self.data, self.etag, self.how, self.seen = data, '"one"', set(), []
        super().__init__(Answer)


class Answer(Quiet):
    """GET only."""

    def do_GET(self):  # noqa: N802
        """Answer the file, or the part that Range names, as `how` has it."""
        here = self.server.owner
        here.seen.append(dict(self.headers))
        data, tags = here.data, {} if "no tag" in here.how else {"ETag": here.etag}
        if "gzip" in here.how:
            packed = gzip.compress(data)
            return self.answer(200, packed, Content_Encoding="gzip", **tags)
        if "bad length" in here.how:
            self.send_response(200)
            self.send_header("Content-Length", "abc")
            self.end_headers()
            self.wfile.write(data)
            self.close_connection = True
            return None
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        fits = "deaf" in here.how or self.headers.get("If-Range") == here.etag
        if found is None or not fits:
            return self.answer(200, data, **tags)
        first = int(found[1])
        if first >= len(data):
            return self.answer(416, Content_Range=f"bytes */{len(data)}", **tags)
        if "from the start" in here.how:
            return self.answer(206, data, Content_Range=f"bytes 0-{len(data) - 1}/{len(data)}", **tags)
        return self.answer(
            206, data[first:], Content_Range=f"bytes {first}-{len(data) - 1}/{len(data)}", **tags
        )


@pytest.fixture
def server():
    with Odd() as odd:
        yield odd


@pytest.fixture
def begun(server, tmp_path):
    """A path of which half was loaded from the server before it broke off, as an earlier try leaves it."""
    (tmp_path / "a.xml.part").write_bytes(XML[: len(XML) // 2])
    (tmp_path / "a.xml.part.tag").write_text(server.etag)
    return tmp_path / "a.xml"


def left(folder):
    return sorted(p.name for p in folder.iterdir())


def test_it_goes_on_with_the_same_file_and_leaves_nothing_else(server, begun):
    download(server.url, begun)
    assert begun.read_bytes() == XML
    assert server.seen[-1]["Range"] == f"bytes={len(XML) // 2}-"
    assert (server.seen[-1]["If-Range"], server.seen[-1]["Accept-Encoding"]) == ('"one"', "identity")
    assert left(begun.parent) == ["a.xml"]


@pytest.mark.parametrize("how", [set(), {"deaf"}, {"deaf", "no tag"}])
def test_another_file_of_the_same_size_is_never_joined_to_the_old(server, begun, how):
    server.data, server.etag, server.how = XML.replace(b"product", b"changed"), '"two"', how
    if "no tag" in how:  # nothing tells them apart but what the archive says
        said = Remote(server.url, checksum="1220" + hashlib.sha256(server.data).hexdigest())
        with pytest.raises(FetchError, match="file:checksum"):
            download(said, begun)
        download(said, begun)
    else:
        download(server.url, begun)
    assert begun.read_bytes() == server.data


def test_without_a_tag_it_begins_anew(server, tmp_path):
    (tmp_path / "a.xml.part").write_bytes(b"Q" * 100)
    server.how = {"no tag", "deaf"}
    assert download(server.url, tmp_path / "a.xml").read_bytes() == XML
    assert "Range" not in server.seen[-1]


def test_a_part_that_begins_elsewhere_is_not_appended(server, begun):
    server.how = {"from the start"}
    assert download(server.url, begun).read_bytes() == XML


def test_a_whole_part_whose_renaming_was_missed_is_taken(server, begun):
    begun.with_name("a.xml.part").write_bytes(XML)
    asked = len(server.seen)
    assert download(server.url, begun).read_bytes() == XML
    assert len(server.seen) == asked + 1  # the 416 was enough
    assert left(begun.parent) == ["a.xml"]


def test_a_longer_part_is_thrown_away(server, begun):
    begun.with_name("a.xml.part").write_bytes(XML + b"more")
    assert download(server.url, begun).read_bytes() == XML


@pytest.mark.parametrize("how", [{"gzip"}, {"bad length"}])
def test_packed_answers_and_odd_lengths_are_read(server, tmp_path, how):
    server.how = how
    for name in ("a.xml", "b.xml"):
        assert download(server.url, tmp_path / name).read_bytes() == XML


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [("a.tiff", PAGE, "web page.*" + TOKEN), ("a.xml", b"\n" + PAGE, "web page"), ("a.xml", b"no", "no XML"),
     ("a.tiff", XML, "no TIFF"), ("manifest.safe", b"{}", "no XML")],
)  # fmt: skip
def test_a_page_to_sign_in_is_not_kept_as_an_image(tmp_path, name, data, words):
    with Odd(data) as server:
        with pytest.raises(FetchError, match=words):
            download(server.url, tmp_path / name)
        assert not (tmp_path / name).exists()
        assert not (tmp_path / f"{name}.part").exists()
        server.data = b"II*\0more" if name.endswith("tiff") else b"\xef\xbb\xbf" + XML
        assert download(server.url, tmp_path / name).read_bytes() == server.data


@pytest.mark.parametrize("kind", ["sha256", "md5", "sha1", "sha512"])
def test_size_and_checksum_are_the_archives(server, tmp_path, kind):
    code = {"sha256": "1220", "md5": "d50110", "sha1": "1114", "sha512": "1340"}[kind]
    checksum = code + hashlib.new(kind, XML).hexdigest()
    with pytest.raises(FetchError, match=rf"has {len(XML)} bytes, but the archive says 7 \(file:size\)"):
        download(Remote(server.url, size=7), tmp_path / "a.xml")
    with pytest.raises(FetchError, match=rf"has the {kind} .*file:checksum"):
        download(Remote(server.url, checksum=checksum[:-1] + "x"), tmp_path / "a.xml")
    assert left(tmp_path) == ["a.xml.part.tag"]
    download(Remote(server.url, len(XML), checksum.upper()), tmp_path / "a.xml")
    download(Remote(server.url, checksum="9999abcd"), tmp_path / "b.xml")  # a kind that is not known


def test_a_token_goes_to_its_own_origin_only_and_never_in_the_clear(server, tmp_path, monkeypatch):
    monkeypatch.setenv(TOKEN, " word\n")
    other = server.url.replace("127.0.0.1", "localhost")
    port = server.url.rpartition(":")[2]
    for number, origins in enumerate(
        [(server.url,), (other,), (f"https://127.0.0.1:{port}",), ("http://127.0.0.1",)]
    ):
        download(server.url, tmp_path / f"{number}.xml", origins=origins)
    assert [seen.get("Authorization") for seen in server.seen] == ["Bearer word", None, None, None]
    asked = {}

    class StopError(Exception):
        pass

    def get(href, *, headers, **more):
        asked.update(headers)
        raise StopError

    monkeypatch.setattr("requests.get", get)
    for href, sent in (("http://a.org/x", False), ("https://a.org/x", True), ("https://a.org:444/x", False)):
        asked.clear()
        with pytest.raises(StopError):
            download(href, tmp_path / "c", origins=("http://a.org", "https://a.org"))
        assert ("Authorization" in asked) == sent
    assert own_endpoint("https://a.org/v1", "c", "gamma0").token_origins == ("https://a.org/v1",)
    assert all(o.startswith("https://") for e in ENDPOINTS.values() for o in e.token_origins)
    assert origin_of("HTTPS://A.org/x") == "https://a.org:443"


@pytest.mark.parametrize("token", ["tök–", "a\nX: y", "a b"])
def test_a_token_that_no_header_takes_is_told_without_itself(server, tmp_path, monkeypatch, token):
    monkeypatch.setenv(TOKEN, token)
    with pytest.raises(FetchError, match=f"{TOKEN} holds a space or a character") as told:
        download(server.url, tmp_path / "a.xml", origins=(server.url,))
    assert token not in str(told.value)


@pytest.mark.parametrize("href", ["http://a:99999999/x", "http://[bad/x"])
def test_what_is_no_address_is_refused(tmp_path, href):
    with pytest.raises(FetchError, match="is no address"):
        download(href, tmp_path / "a")
    with pytest.raises(InputError, match="is no address"):
        own_endpoint(href, "c", "gamma0")


def item(properties=None, assets=(), moment=datetime(2024, 1, 1, tzinfo=UTC)):
    """A STAC item with odd properties or assets: (key, address, more)."""
    more = (
        {} if moment else {"start_datetime": "2024-01-01T00:00:00Z", "end_datetime": "2024-01-02T00:00:00Z"}
    )
    made = pystac.Item(
        "x",
        {"type": "Point", "coordinates": [0, 0]},
        [0, 0, 1, 1],
        moment,
        {"platform": "sentinel-1a", **more},
    )
    made.properties |= properties or {}
    for key, href, fields in assets:
        made.add_asset(key, pystac.Asset(href, extra_fields=fields))
    return made


@pytest.mark.parametrize(
    ("key", "value"),
    [("sat:absolute_orbit", "abc"), ("sat:relative_orbit", float("inf")), ("sat:relative_orbit", 0),
     ("sat:relative_orbit", 176), ("sat:relative_orbit", True), ("sat:relative_orbit", 1.5),
     ("sat:absolute_orbit", "9" * 5000), ("sar:polarizations", 5), ("sar:polarizations", "VV"),
     ("sar:polarizations", [1])],
)  # fmt: skip
def test_odd_properties_of_an_item_are_told(key, value):
    with pytest.raises(FetchError, match=f"item x says {key}="):
        acquisition_of(item({key: value}))


def test_odd_times_and_sizes_of_an_item_are_told():
    with pytest.raises(FetchError, match="start_datetime='nonsense'"):
        acquisition_of(item({"start_datetime": "nonsense"}, moment=None))
    with pytest.raises(FetchError, match="asset 'a' says file:size='big'"):
        acquisition_of(item(assets=[("a", "https://a.org/x", {"file:size": "big"})]))
    good = acquisition_of(item({"sat:relative_orbit": "8", "sar:polarizations": ["vv"]},
                               [("a", "https://a.org/x", {"file:size": 5})]))  # fmt: skip
    assert (good.relative_orbit, good.polarizations, good.size) == (8, ("VV",), 5)


@pytest.mark.parametrize("name", ["a%00b.xml", "x%0ay.xml", "a%5Cb.xml", "n" * 300 + ".xml"])
def test_names_that_no_file_can_have_are_told(name):
    with pytest.raises(FetchError, match="its asset 'k' is named"):
        list(product_files(item(assets=[("k", f"https://a.org/annotation/{name}", {})])))


def test_files_carry_what_the_archive_says_and_long_ids_a_hash():
    fields = {"file:size": 3, "file:checksum": "1220ab"}
    found = dict(product_files(item(assets=[("k", "https://a.org/annotation/a.xml", fields)])))
    assert found == {"annotation/a.xml": Remote("https://a.org/annotation/a.xml", 3, "1220ab")}
    names = {plain_name("i" * 400), plain_name("i" * 401)}
    assert len(names) == 2
    assert all(len(n) < 100 for n in names)
