"""STAC sources that have no end, or name files of this machine."""

import gzip
import http.server
import json
import threading
from contextlib import nullcontext, suppress

import pytest
from requests import RequestException

from geo import documents
from geo.errors import InputError
from geo.formats import stac_search
from geo.formats.stac_search import Search, search_items
from geo.imagery import networks, remote
from geo.imagery.discovery import find_acquisitions
from geo.imagery.remote import read_bytes, web_session
from tests.builders.stac import item_of

EVERYTHING = Search(["sentinel-2-l2a"], None, None, None)


@pytest.fixture
def scenes(tmp_path):
    """The folder that `server` serves."""
    return tmp_path


def write(folder, **documents):
    for name, document in documents.items():
        text = document if isinstance(document, str) else json.dumps(document)
        (folder / f"{name}.json").write_text(text)


def catalogue(*links, rel="child", **more):
    links = [{"rel": rel, "href": link} for link in links]
    return {"type": "Catalog", "id": "x", "links": links, **more}


LOOPS = {
    "itself": {"catalog": catalogue("catalog.json")},
    "another spelling": {"catalog": catalogue("./x/../catalog.json")},
    "each other": {"catalog": catalogue("a.json"), "a": catalogue("catalog.json")},
    "three": {"catalog": catalogue("a.json"), "a": catalogue("b.json"), "b": catalogue("a.json")},
    "as an item": {"catalog": catalogue("catalog.json", rel="item")},
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("remote_", [False, True])
def test_catalogues_that_contain_themselves_are_refused_at_once(tmp_path, server, loop, remote_):
    write(tmp_path, **LOOPS[loop])
    source = f"{server.url}/catalog.json" if remote_ else tmp_path
    with pytest.raises(InputError, match=r"contains itself: .*\.json -> .*Remove the last link"):
        search_items(source, EVERYTHING)
    assert len(server.log) <= (3 if remote_ else 0)


def test_links_of_the_disk_to_themselves_are_refused(tmp_path):
    (tmp_path / "a.json").symlink_to("a.json")
    write(tmp_path, catalog=catalogue("a.json"))
    with pytest.raises(InputError, match=r"a\.json is not a file"):
        search_items(tmp_path, EVERYTHING)


BROKEN = {
    "no href": ({"links": [{"rel": "item"}]}, "is not STAC, by its links: it lacks 'href'"),
    "links of another type": ({"links": 5}, "is not STAC, by its links"),
    "a link of another type": ({"links": [5]}, "is not STAC, by its links"),
    "an address of another type": ({"links": [{"rel": "item", "href": 5}]}, "by its links"),
    "no features": ({"type": "FeatureCollection"}, "its features are no list of items"),
    "numbers": ({"type": "FeatureCollection", "features": [1]}, "its features are no list"),
    "no items": ({"type": "FeatureCollection", "features": []}, "has no STAC item"),
    "assets": ({"type": "Feature", "id": 1, "properties": {}, "assets": 5}, "not a STAC item"),
    "properties": ({"type": "Feature", "id": 1, "properties": 5, "assets": {}}, "not a STAC item"),
}


@pytest.mark.parametrize("document", BROKEN)
def test_broken_catalogues_are_refused(tmp_path, document):
    change, words = BROKEN[document]
    write(tmp_path, catalog=catalogue() | change)
    with pytest.raises(InputError, match=words) as error:
        search_items(tmp_path, EVERYTHING)
    assert str(tmp_path) in str(error.value)


def test_what_is_linked_twice_is_read_once(tmp_path):
    item = item_of("20180405", "https://example.org")
    both = catalogue("item.json", rel="item")
    write(tmp_path, catalog=catalogue("a.json", "b.json", "a.json"), a=both, b=both, item=item)
    assert list(search_items(tmp_path, EVERYTHING)) == [item["id"]]


def test_catalogues_without_an_end_are_refused(tmp_path, monkeypatch):
    write(tmp_path, catalog=catalogue("1.json"))
    write(tmp_path, **{f"{i}": catalogue(f"{i + 1}.json") for i in range(1, 60)})
    with pytest.raises(InputError, match=r"more than 32 levels .* at .*/33\.json"):
        search_items(tmp_path, EVERYTHING)
    monkeypatch.setattr(stac_search, "MOST_DOCUMENTS", 20)
    write(tmp_path, catalog=catalogue(*(f"w{i}.json" for i in range(60))))
    write(tmp_path, **{f"w{i}": catalogue() for i in range(60)})
    with pytest.raises(InputError, match=r"or 20 files, the most that are read, at .*/w19\.json"):
        search_items(tmp_path, EVERYTHING)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"type":' * 100_000])
@pytest.mark.parametrize("remote_", [False, True])
def test_deeply_nested_catalogues_are_refused(tmp_path, server, content, remote_):
    write(tmp_path, catalog=content)
    source = f"{server.url}/catalog.json" if remote_ else tmp_path
    with pytest.raises(InputError, match=r"catalog\.json .*nested too deeply"):
        search_items(source, EVERYTHING)


def test_huge_catalogues_are_refused(tmp_path, server, monkeypatch):
    write(tmp_path, catalog=catalogue(description="x" * 5000))
    for module in (documents, stac_search, remote):
        monkeypatch.setattr(module, "LARGEST_JSON", 1000)
    for source in (tmp_path, f"{server.url}/catalog.json"):
        with pytest.raises(InputError, match=r"has more than 1,000 bytes"):
            search_items(source, EVERYTHING)


@pytest.fixture
def serve():
    """Start servers whose GET requests are answered by functions of the handler."""
    servers = []

    def start(answer):
        methods = {"do_GET": answer, "log_message": lambda *_: None}
        handler = type("Handler", (http.server.BaseHTTPRequestHandler,), methods)
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.05,), daemon=True).start()
        return servers[-1].server_port

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_an_answer_that_unpacks_beyond_the_limit_is_not_unpacked(serve, monkeypatch):
    monkeypatch.setattr(remote, "LARGEST_JSON", 1_000_000)
    body = gzip.compress(bytes(300_000_000), 1)

    def answer(self):
        self.send_response(200)
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(OSError):  # the client closes the connection
            self.wfile.write(body)

    port = serve(answer)
    with pytest.raises(RequestException, match="more than 1,000,000 bytes"):
        web_session().get(f"http://127.0.0.1:{port}/")


def test_pages_that_repeat_are_refused(server):
    server.items = [item_of(f"2018040{day}", server.url) for day in range(1, 6)]
    search = server.http.RequestHandlerClass.search

    def first_page(self, query, address):
        return search(self, {**query, "page": 0}, address)

    server.http.RequestHandlerClass.search = first_page
    with pytest.raises(InputError, match="sends the same page of items again and again"):
        search_items(f"{server.url}/api", EVERYTHING)
    server.http.RequestHandlerClass.search = search
    assert sum(entry["path"] == "api/search" for entry in server.log) == 2
    assert len(search_items(f"{server.url}/api", EVERYTHING)) == 5


def test_an_answer_without_an_end_is_refused(server, monkeypatch):
    monkeypatch.setattr(stac_search, "MOST_DOCUMENTS", 3)
    server.items = [item_of(f"2018040{day}", server.url) for day in range(1, 9)]
    with pytest.raises(InputError, match="finds more than 3 items"):
        search_items(f"{server.url}/api", EVERYTHING)


@pytest.mark.parametrize("scheme", ["file://", "file:", "FILE://"])
@pytest.mark.parametrize("rel", ["item", "child"])
def test_catalogues_on_servers_open_no_local_catalogue(tmp_path, server, scheme, rel):
    write(tmp_path, private=item_of("20180405", "https://example.org"))
    write(tmp_path, catalog=catalogue(f"{scheme}{tmp_path}/private.json", rel=rel))
    with pytest.raises(InputError, match=r"private\.json|addresses that start with file"):
        search_items(f"{server.url}/catalog.json", EVERYTHING)


@pytest.mark.parametrize("scheme", ["file://", "file:", "FILE://", ""])
def test_items_on_servers_open_no_local_file(tmp_path, server, scheme):
    """A path without a scheme is a path on the server."""
    item = item_of("20180405", "https://example.org")
    (tmp_path / "B02.tif").write_bytes(b"private")
    for asset in item["assets"].values():
        asset["href"] = f"{scheme}{tmp_path}/B02.tif"
        del asset["proj:shape"]
    write(tmp_path, item=item)
    (tmp_path / "items").mkdir()
    for name, found in search_items(f"{server.url}/item.json", EVERYTHING).items():
        write(tmp_path / "items", **{name: found})
    words = "which is not opened" if scheme else rf"{server.url}.*B02\.tif does not exist"
    with pytest.raises(InputError, match=words) as error:
        find_acquisitions(tmp_path / "items", "stac")
    assert "private" not in str(error.value)


def test_catalogues_on_this_machine_open_local_files(tmp_path):
    item = item_of("20180405", f"file://{tmp_path}")
    write(tmp_path, item=item, catalog=catalogue(f"file://{tmp_path}/item.json", rel="item"))
    (found,) = search_items(tmp_path, EVERYTHING).values()
    assert found["assets"]["blue"]["href"] == f"{tmp_path}/20180405/B02.tif"


@pytest.mark.parametrize("read", [read_bytes, lambda address: web_session().get(address)])
def test_passwords_are_not_sent_to_the_server_of_a_redirect(serve, read):
    seen = []

    def final(self):
        seen.append(self.headers.get("Authorization"))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    second = serve(final)

    def redirect(self):
        seen.append(self.headers.get("Authorization"))
        self.send_response(302)
        self.send_header("Location", f"http://localhost:{second}/x")
        self.send_header("Content-Length", "0")
        self.end_headers()

    first = serve(redirect)
    read(f"http://user:secret@127.0.0.1:{first}/x")
    assert seen[0].startswith("Basic ")
    assert seen[1:] == [None]


ADDRESSES = {
    "127.0.0.1": "private",
    "127.1": "private",
    "2130706433": "private",
    "0x7f000001": "private",
    "0.0.0.0": "private",  # noqa: S104 (nothing is bound)
    "localhost": "private",
    "[::1]": "private",
    "[::ffff:127.0.0.1]": "private",
    "10.1.2.3": "private",
    "172.16.0.1": "private",
    "192.168.1.1": "private",
    "100.64.0.1": "private",
    "[fd00::1]": "private",
    "169.254.169.254": "link-local",
    "[::ffff:169.254.169.254]": "link-local",
    "[fe80::1]": "link-local",
    "93.184.215.14": "public",
    "172.32.0.1": "public",
    "[2606:2800::1]": "public",
    "no-such-host.invalid": "public",
}


@pytest.mark.parametrize("host", ADDRESSES)
def test_networks_of_addresses(tmp_path, host):
    """A catalogue on the internet, on a private network and on this machine names the host."""
    network = ADDRESSES[host]
    assert networks.network_of(host.strip("[]")) == network
    for source, allowed in (
        ("https://93.184.215.14/catalog.json", {"public"}),
        ("http://192.168.1.7:8000/catalog.json", {"public", "private"}),
        (str(tmp_path), {"public", "private"}),
    ):
        address = f"http://me:secret@{host}:8080/B02.tif?sig=SECRET"
        with nullcontext() if network in allowed else pytest.raises(InputError) as error:
            networks.check_reach(address, source)
        if network not in allowed:
            assert f"is on {host.strip('[]')}, which is an address of" in str(error.value)
            assert "SECRET" not in str(error.value)


@pytest.fixture
def public(monkeypatch):
    """Let 127.0.0.1 be an address on the internet; the name localhost stays private."""
    networks.network_of.cache_clear()
    resolve = networks.resolve
    known = {"127.0.0.1": ["93.184.215.14"]}
    monkeypatch.setattr(networks, "resolve", lambda host: known.get(host) or resolve(host))
    yield
    networks.network_of.cache_clear()


NAMED = [
    ("catalog", catalogue("http://localhost:{port}/x.json")),
    ("catalog", catalogue("http://localhost:{port}/x.json", rel="item")),
    ("item", item_of("20180405", "http://localhost:{port}")),
    ("item", item_of("20180405", "http://169.254.169.254")),
]


@pytest.mark.parametrize(("name", "document"), NAMED)
def test_catalogues_on_the_internet_name_no_private_address(
    tmp_path, server, public, name, document
):
    text = json.dumps(document).replace("{port}", str(server.http.server_port))
    write(tmp_path, **{name: text, "x": item_of("20180405", "https://example.org")})
    with pytest.raises(InputError, match="is an address of this machine or of a private network"):
        search_items(f"{server.url}/{name}.json", EVERYTHING)
    assert len(server.log) == 1
    # The remedy works.
    if "169.254" not in text:
        assert search_items(tmp_path / f"{name}.json", EVERYTHING)


def test_redirects_lead_to_no_private_address(serve, public):
    seen = []

    def final(self):
        seen.append(self.path)
        self.send_error(404)

    second = serve(final)

    def redirect(self):
        self.send_response(302)
        self.send_header("Location", f"http://localhost:{second}/x")
        self.send_header("Content-Length", "0")
        self.end_headers()

    first = serve(redirect)
    with pytest.raises(InputError, match="is an address of this machine or of a private network"):
        search_items(f"http://127.0.0.1:{first}/catalog.json", EVERYTHING)
    assert seen == []


def test_items_of_this_machine_name_no_link_local_address(tmp_path):
    item = item_of("20180405", "http://169.254.169.254/latest")
    for asset in item["assets"].values():
        del asset["proj:shape"]
    write(tmp_path, item=item)
    with pytest.raises(InputError, match=r"is on 169\.254\.169\.254, which .* Leave it out"):
        find_acquisitions(tmp_path / "item.json", "stac")
