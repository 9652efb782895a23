"""The arithmetic of scripts/paper_tables.py, and what it says where a measurement is impossible."""

import pathlib
import subprocess
import sys
import tempfile
import unittest
from types import SimpleNamespace

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
from paper import pieces, report  # noqa: E402


def bench_row(mode, us, kv_bytes):
    return {
        "workload": "APPS_tree_size32",
        "mode": mode,
        "dtype": "bfloat16",
        "query_heads": 8,
        "kv_heads": 2,
        "head_dim": 64,
        "query_rows": 32.0,
        "kv_tokens": 1000.0,
        "flop": 4_000_000,
        "kv_read_bytes": kv_bytes,
        "time_us": {"median": us},
        "roofline_ratio": 0.5,
        "achieved_bytes_per_s": kv_bytes / us * 1e6,
        "partial_bytes": 0,
        "plan_us": 10.0,
    }


class Report(unittest.TestCase):
    def row(self, flop_per_s):
        peak = {"read_bytes_per_s": 1e9, "bf16_flop_per_s": flop_per_s}
        one = {"peak": peak, "rows": [bench_row("sequence", 600.0, 400_000), bench_row("flatten", 200.0, 50_000)]}
        ((flatten, sequence),) = report.pairs(one)
        return report.attention_row("piece", one, flatten, sequence)

    def test_ratios_are_of_flatten_over_sequence(self):
        row = self.row(1e12)
        self.assertEqual(row["workload"], "token tree 32")
        self.assertEqual(row["paper_speedup"], 1.96)
        self.assertAlmostEqual(row["speedup"], 3.0)
        self.assertAlmostEqual(row["byte_ratio"], 8.0)
        self.assertAlmostEqual(row["part_of_byte_ratio"], 0.375)
        self.assertAlmostEqual(row["kv_io_saved"], 0.875)
        self.assertAlmostEqual(row["flatten_of_bandwidth"], 0.25)

    def test_the_limit_is_the_longer_part_of_the_roofline(self):
        # 1000 tokens of 512 bytes at 1 GB/s: 512 us; 4 MFLOP at 1 TFLOP/s and 1 GFLOP/s: 4 and 4000 us
        self.assertEqual(self.row(1e12)["limit"], "memory")
        self.assertEqual(self.row(1e9)["limit"], "products")

    def test_tables_line_up_and_plots_are_drawn(self):
        row = self.row(1e12)
        self.assertEqual(
            len({len(line) for line in report.table(report.ATTENTION_COLUMNS, [row, row]).splitlines()}), 1
        )
        with tempfile.TemporaryDirectory() as folder:
            files = report.plots(f"{folder}/paper", [row])
            self.assertEqual([pathlib.Path(file).is_file() for file in files], [True, True])
            self.assertEqual(report.plots(f"{folder}/none", [row | {"paper_speedup": None}]), [])


class Pieces(unittest.TestCase):
    def test_a_program_that_fails_is_told_of_by_its_last_line(self):
        piece = pieces.Piece("one", "attention")
        with self.assertRaisesRegex(pieces.Failed, "one: status 2: wrong flag"):
            pieces.run(piece, "ignored", ["sh", "-c", "echo wrong flag >&2; exit 2"], 60)
        with self.assertRaisesRegex(pieces.Failed, "one: took more than 1 s"):
            pieces.run(piece, "ignored", ["sh", "-c", "sleep 20"], 1)

    def test_without_recorded_trees_nothing_asks_for_them(self):
        options = SimpleNamespace(
            recorded={},
            heads=["8/2"],
            head_dim=64,
            repeats=1,
            attention_layers=1,
            samples=1,
            shape_heads="8/2",
            replay_layers=1,
            replay_steps=1,
        )
        named = [piece.name for piece in pieces.pieces(options)]
        self.assertIn("token trees, 8/2 heads", named)
        self.assertFalse([name for name in named if "reasoning" in name or "ToT" in name])

    def test_recorded_trees_are_found_at_any_depth(self):
        with tempfile.TemporaryDirectory() as folder:
            deep = pathlib.Path(folder, "dataset", "generation")
            deep.mkdir(parents=True)
            for name in (*pieces.RECORDED, *pieces.TOKEN_TREES):
                (deep / name).write_text("[]")
            found = pieces.find_recorded(pathlib.Path(folder))
            self.assertEqual(found["docmergeToT.json"], deep / "docmergeToT.json")
            (deep / "APPS_tree_size64.json").unlink()
            with self.assertRaisesRegex(pieces.Failed, "APPS_tree_size64.json is not there"):
                pieces.find_recorded(pathlib.Path(folder))

    def test_a_folder_without_the_trees_is_refused_by_name(self):
        with tempfile.TemporaryDirectory() as folder:
            script = [sys.executable, str(ROOT / "scripts/paper_tables.py"), "--out", folder, "--workloads", folder]
            done = subprocess.run(script, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("--workloads: ", done.stderr)
        self.assertIn("sorting128ToT.json is not there", done.stderr)


if __name__ == "__main__":
    unittest.main()
