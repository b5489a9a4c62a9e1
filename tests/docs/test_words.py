"""Messages, docstrings, comments and pages are in the words engineers use."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
ODD = re.compile(
    r"\b(nobody|somebody|whoever|anew|in hand|whence|hitherto|thereof)\b"
    r"|(?<!there )\b(is|are) no (?!longer\b|such\b|more\b|row\b)\w+",
    re.IGNORECASE,
)
PAGES = ("*.py", "*.js", "*.md", "*.sql", "*.conf", "*.service", "*.yml", "Makefile")


def tracked(*patterns: str) -> list[Path]:
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / line for line in done.stdout.splitlines()]


def test_odd_words_are_not_used() -> None:
    pages = [page for page in tracked(*PAGES) if "tests" not in page.relative_to(ROOT).parts and page.exists()]
    assert len(pages) > 100
    found = [
        f"{page.relative_to(ROOT)}:{number}: {match.group()}"
        for page in pages
        for number, line in enumerate(page.read_text().splitlines(), 1)
        for match in ODD.finditer(line)
    ]
    assert found == []
