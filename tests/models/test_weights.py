"""Weight files: what is accepted, what is refused, and with which sentence."""

import errno
import hashlib
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from models import weights
from models.errors import OfflineError, WeightsError
from models.weights import Hub, WeightFile, fetch

HUB = Hub("someone/something", "0" * 40)
Get = Callable[..., Path]  # `fetch` from the fake hub into a fresh cache


class FakeHub(ThreadingHTTPServer):
    """A Hugging Face hub of one repository on localhost: HEAD, GET and byte ranges."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.ranges: list[str | None] = []  # the Range header of every GET
        self.status = 200
        self.answer_after_s = 0.0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, *args: object) -> None: ...

    def do_HEAD(self) -> None:
        time.sleep(self.server.answer_after_s)
        self._answer(0)

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        self.wfile.write(self._answer(start))

    def _answer(self, start: int) -> bytes:
        content = self.server.files.get(self.path.rsplit("/", 1)[-1], b"")
        if self.server.status != 200:
            self.send_error(self.server.status)
            return b""
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", HUB.revision)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        return content[start:]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    server = FakeHub()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def tensors(tmp_path: Path) -> Path:
    path = tmp_path / "good.safetensors"
    save_file({"w": torch.arange(5000.0), "b": torch.ones(3, dtype=torch.float16)}, path)
    return path


@pytest.fixture
def offered(hub: FakeHub, tensors: Path) -> WeightFile:
    """A file on the hub, as the catalogue knows it."""
    content = tensors.read_bytes()
    hub.files["model.safetensors"] = content
    return WeightFile("model.safetensors", len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def get(hub: FakeHub, tmp_path: Path) -> Get:
    return partial(fetch, HUB, cache=tmp_path / "cache", endpoint=hub.endpoint)


def _folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "someone--something" / HUB.revision


# ------------------------------------------------------------------------- reading and verifying


def test_sha256_is_that_of_the_standard_library_and_notices_a_change(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for content in (b"", b"abc", b"abcd" * 10**6):
        path.write_bytes(content)
        assert weights.sha256_of(path) == hashlib.sha256(content).hexdigest()


def test_read_safetensors_returns_what_was_saved(tensors: Path) -> None:
    read = weights.read_safetensors(tensors)
    assert set(read) == {"w", "b"}
    assert torch.equal(read["w"], torch.arange(5000.0))
    assert read["b"].dtype == torch.float16


class Boom:
    """Unpickling this creates the file `path`: proof that code ran."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def _torch_save(path: Path, proof: Path) -> None:
    torch.save({"w": Boom(proof)}, path)


def _pickle(path: Path, proof: Path) -> None:
    path.write_bytes(pickle.dumps({"w": Boom(proof)}))


@pytest.mark.parametrize("write", [_torch_save, _pickle])
def test_a_pickle_named_safetensors_is_refused_unopened(
    tmp_path: Path, write: Callable[[Path, Path], None]
) -> None:
    path, proof = tmp_path / "evil.safetensors", tmp_path / "proof"
    write(path, proof)
    with pytest.raises(WeightsError, match=r"pickle.*convert it to safetensors"):
        weights.read_safetensors(path)
    assert not proof.exists()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda good: good[:-1], "not a whole safetensors file"),
        (lambda good: good[:100], "not a whole safetensors file"),
        (lambda good: b"", "not a whole safetensors file"),
        (lambda good: b"\xff" * 8 + good[8:], "not a whole safetensors file"),
        (lambda good: good[:8] + b"[" + good[9:], "not a whole safetensors file"),
        (lambda good: b"<html>404</html>" * 50, "not a whole safetensors file"),
        (lambda good: good + b"\0" * 10**6, "more than the 0 MB allowed"),
    ],
)
def test_damaged_safetensors_are_refused(
    tensors: Path, damage: Callable[[bytes], bytes], sentence: str
) -> None:
    tensors.write_bytes(damage(tensors.read_bytes()))
    with pytest.raises(WeightsError, match=sentence):
        weights.read_safetensors(tensors, max_bytes=100_000)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("absent.safetensors", r"absent\.safetensors is missing"),
        ("model.pt", r"not a \.safetensors"),
    ],
)
def test_missing_or_other_formats_are_refused(tmp_path: Path, name: str, sentence: str) -> None:
    with pytest.raises(WeightsError, match=sentence):
        weights.read_safetensors(tmp_path / name)


def test_verify_names_the_damage_and_deletes_only_when_told(tensors: Path) -> None:
    good = weights.sha256_of(tensors)
    weights.verify(tensors, good)
    with pytest.raises(WeightsError, match="damaged or was changed"):
        weights.verify(tensors, "0" * 64)
    assert tensors.exists()
    with pytest.raises(WeightsError, match=f"no checksum .* write {good}"):
        weights.verify(tensors, "", delete=True)
    assert tensors.exists()
    with pytest.raises(WeightsError, match="it was deleted"):
        weights.verify(tensors, "0" * 64, delete=True)
    with pytest.raises(WeightsError, match="is missing from"):
        weights.verify(tensors, good)


def test_minilm_is_the_published_one() -> None:
    directory = weights.minilm_directory()
    assert (directory / "tokenizer.json").is_file()
    content = (directory / "model.safetensors").read_bytes()
    published = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert hashlib.sha256(content).hexdigest() == published
    assert len(content) == weights.MINILM.bytes


# -------------------------------------------------------------------------------- downloading


def test_fetch_downloads_once_then_needs_no_network(
    hub: FakeHub, get: Get, offered: WeightFile, tensors: Path, tmp_path: Path
) -> None:
    heard: list[tuple[float, str]] = []
    folder = get([offered], report=lambda fraction, message: heard.append((fraction, message)))
    assert (folder / offered.name).read_bytes() == tensors.read_bytes()
    assert heard[-1][0] == 1.0
    assert "Downloading model.safetensors" in heard[-1][1]
    assert get([offered], offline=True) == folder
    assert len(hub.ranges) == 1
    assert weights.downloaded(HUB, [offered], tmp_path / "cache")


def test_several_files_share_one_progress(hub: FakeHub, get: Get, offered: WeightFile) -> None:
    hub.files["tokenizer.json"] = b"{}" * 10_000
    digest = hashlib.sha256(hub.files["tokenizer.json"]).hexdigest()
    heard: list[float] = []
    files = [offered, WeightFile("tokenizer.json", 20_000, digest)]
    get(files, report=lambda fraction, message: heard.append(fraction))
    assert heard == sorted(heard)
    assert heard[0] == pytest.approx(offered.bytes / (offered.bytes + 20_000))
    assert heard[-1] == 1.0


def test_an_interrupted_download_continues(
    hub: FakeHub, get: Get, offered: WeightFile, tensors: Path, tmp_path: Path
) -> None:
    half = offered.bytes // 2

    def breaks(url: str, stream: BinaryIO, **kwargs: object) -> None:
        stream.write(tensors.read_bytes()[:half])
        raise ConnectionResetError("gone")

    with pytest.raises(OfflineError, match=r"connection broke .* try again to continue"):
        get([offered], transfer=breaks)
    folder = get([offered])
    assert hub.ranges == [f"bytes={half}-"]
    assert (folder / offered.name).read_bytes() == tensors.read_bytes()
    assert not list(_folder(tmp_path).glob("*.part"))


def test_stopping_from_the_report_keeps_what_has_come(
    hub: FakeHub, get: Get, offered: WeightFile, tmp_path: Path
) -> None:
    def stop(fraction: float, message: str) -> None:
        raise GeneratorExit

    with pytest.raises(GeneratorExit):
        get([offered], report=stop)
    assert (_folder(tmp_path) / "model.safetensors.part").stat().st_size == offered.bytes
    assert (get([offered]) / offered.name).is_file()


def test_tampered_on_the_way_is_deleted_and_the_next_try_works(
    hub: FakeHub, get: Get, offered: WeightFile, tensors: Path, tmp_path: Path
) -> None:
    good = tensors.read_bytes()
    hub.files["model.safetensors"] = good[:-1] + b"!"
    with pytest.raises(WeightsError, match=r"damaged or was changed .* deleted"):
        get([offered])
    assert not list(_folder(tmp_path).glob("model*[!k]"))  # nothing but the lock file
    hub.files["model.safetensors"] = good
    assert (get([offered]) / offered.name).read_bytes() == good


def test_tampered_on_the_disk_is_deleted(get: Get, offered: WeightFile, tmp_path: Path) -> None:
    path = get([offered]) / offered.name
    path.write_bytes(b"x" * offered.bytes)
    with pytest.raises(WeightsError, match=r"damaged or was changed .* deleted"):
        get([offered])
    assert not path.exists()
    assert get([offered]) == path.parent


def test_a_stale_part_longer_than_the_file_is_dropped(
    get: Get, offered: WeightFile, tmp_path: Path
) -> None:
    _folder(tmp_path).mkdir(parents=True)
    (_folder(tmp_path) / "model.safetensors.part").write_bytes(b"x" * (offered.bytes + 1))
    assert (get([offered]) / offered.name).stat().st_size == offered.bytes


def test_ten_threads_download_once(hub: FakeHub, get: Get, offered: WeightFile) -> None:
    threads = [threading.Thread(target=get, args=([offered],)) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(hub.ranges) == 1


def test_offline_refuses_at_once_and_names_the_mini_model(
    hub: FakeHub, get: Get, offered: WeightFile
) -> None:
    with pytest.raises(OfflineError, match=r"--offline forbids .*mini model"):
        get([offered], offline=True)
    assert hub.ranges == []


def test_hugging_faces_own_cache_is_used_when_genuine_and_never_touched(
    hub: FakeHub,
    offered: WeightFile,
    tensors: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CLIP_ATELIER_CACHE", str(tmp_path / "ours"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "theirs"))
    folder = tmp_path / "theirs" / "models--someone--something" / "snapshots" / HUB.revision
    folder.mkdir(parents=True)
    path = folder / offered.name
    path.write_bytes(tensors.read_bytes())
    assert weights.downloaded(HUB, [offered])
    assert fetch(HUB, [offered], offline=True) == folder
    path.write_bytes(b"x" * offered.bytes)
    assert fetch(HUB, [offered], endpoint=hub.endpoint).is_relative_to(tmp_path / "ours")
    assert path.read_bytes() == b"x" * offered.bytes


@pytest.mark.parametrize("failure", ["nobody listens", "hangs", "no such name"])
def test_no_network_is_a_sentence_within_five_seconds(
    hub: FakeHub, get: Get, offered: WeightFile, failure: str
) -> None:
    endpoint = {
        "nobody listens": "http://127.0.0.1:9",
        "hangs": hub.endpoint,
        "no such name": "http://hub.invalid",
    }[failure]
    hub.answer_after_s = 30.0
    started = time.perf_counter()
    with pytest.raises(OfflineError, match=r"could not be reached .*mini model"):
        get([offered], endpoint=endpoint, timeout_s=1.0 if failure == "hangs" else 4.0)
    assert time.perf_counter() - started < 5.0


@pytest.mark.parametrize("status", [401, 404, 500])
def test_a_refusing_hub_is_a_sentence(
    hub: FakeHub, get: Get, offered: WeightFile, status: int
) -> None:
    hub.status = status
    with pytest.raises(
        WeightsError, match=rf"refused model\.safetensors \(HTTP {status}\).*mini model"
    ):
        get([offered])


def test_a_file_of_another_size_is_not_downloaded(
    hub: FakeHub, get: Get, offered: WeightFile
) -> None:
    hub.files["model.safetensors"] += b"\0" * 2 * 10**6
    with pytest.raises(WeightsError, match="not the file this app knows"):
        get([offered])
    assert hub.ranges == []


def test_a_full_disk_is_noticed_before(hub: FakeHub, get: Get, offered: WeightFile) -> None:
    with pytest.raises(WeightsError, match=r"needs 64 MB .* only 1 MB are free"):
        get([offered], free_bytes=lambda folder: 10**6)
    assert hub.ranges == []


def test_a_disk_that_fills_up_meanwhile_is_a_sentence(get: Get, offered: WeightFile) -> None:
    def fills_up(url: str, stream: BinaryIO, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(WeightsError, match=r"disk filled up .* it will continue"):
        get([offered], transfer=fills_up)


def test_only_formats_without_code_are_downloaded(hub: FakeHub, get: Get) -> None:
    with pytest.raises(WeightsError, match=r"ViT-B-32\.pt may hold code"):
        get([WeightFile("ViT-B-32.pt", 10, "0" * 64)])
    assert hub.ranges == []


# ------------------------------------------------------------------ pickles kept as safetensors


def test_a_pickle_is_fetched_only_where_its_safetensors_are_named(
    hub: FakeHub, get: Get, tmp_path: Path
) -> None:
    content = hub.files["model.pt"] = b"pickled" * 1000
    digest = hashlib.sha256(content).hexdigest()
    plain = WeightFile("model.pt", len(content), digest)
    with pytest.raises(WeightsError, match=r"model\.pt may hold code"):
        get([plain])
    kept = WeightFile("model.pt", len(content), digest, slim="model.safetensors")
    folder = get([kept])
    cache = tmp_path / "cache"
    assert weights.downloaded(HUB, [kept], cache)
    slim = weights.slim_path(HUB, kept, cache)
    assert slim == folder / "model.safetensors"
    (folder / "model.pt").rename(slim)  # converted: the pickle is gone, nothing is missing
    assert weights.downloaded(HUB, [kept], cache)
    assert not weights.downloaded(HUB, [plain], cache)
