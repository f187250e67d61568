import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import benchmark_server
import pytest
from conftest import REPO

pytest.importorskip("monailabel", reason="needs the annotation server's packages (make app)")

RESULT = {
    "processor": "P, 2 cores",
    "image": "anna_phase01",
    "shape": (80, 90, 7),
    "started_s": 12.34,
    "first_inference_s": 5.0,
    "later_inference_s": 1.3,
    "segment_s": 1.0,
    "segment_all_s": 6.0,
    "later_over_segment": 1.31,
    "info_p50_ms": 20.4,
    "info_p95_ms": 199.6,
}


def test_the_table_says_what_is_met():
    assert benchmark_server.table(RESULT).splitlines() == [
        "P, 2 cores, anna_phase01 of 80 x 90 x 7 voxels",
        "",
        "| measure | value | wanted |",
        "| --- | --- | --- |",
        "| start to first answer of /info/ | 12.3 s |  |",
        "| first inference after start | 5.00 s | at most 5, met |",
        "| later inferences, median | 1.30 s |  |",
        "| segment.py, the same image | 1.00 s |  |",
        "| segment.py with confidence and measurements | 6.00 s |  |",
        "| later inferences over segment.py | 1.31 | at most 1.3, missed |",
        "| /info/ during inferences, p50 | 20 ms |  |",
        "| /info/ during inferences, p95 | 200 ms | at most 200, met |",
    ]


def test_every_answer_is_timed():
    class Answer(BaseHTTPRequestHandler):
        asked = 0

        def do_GET(self):
            Answer.asked += self.path == "/info/"
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        times = benchmark_server.info_times_ms(f"http://127.0.0.1:{server.server_port}", 0.2)
        server.shutdown()
    assert len(times) == Answer.asked >= 1
    assert min(times) > 0


def test_a_server_that_does_not_start_is_told_with_its_words(tmp_path):
    arguments = ["--studies", str(tmp_path / "missing")]
    told = r"does not answer:\n(.|\n)*missing: there is no such file or folder"
    with pytest.raises(RuntimeError, match=told), benchmark_server.serving(arguments, tmp_path / "log"):
        pass


def test_a_missing_folder_is_wrong_input(tmp_path):
    command = [sys.executable, str(REPO / "scripts" / "benchmark_server.py"), str(tmp_path / "missing")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("missing: there is no such file or folder\n")
