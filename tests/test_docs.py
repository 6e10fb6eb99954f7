"""The documentation says what the code does: coverage, links, commands, tables and examples."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

import actrix

ROOT = Path(__file__).resolve().parent.parent
SRC, DOCS = ROOT / "src" / "actrix", ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *(ROOT / n for n in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))])
MODULES = sorted(p for p in SRC.rglob("*.py") if p.name not in ("cli.py", "__main__.py"))
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
RUN = re.compile(r"<!-- run -->\s*```python\n(.*?)```\s*<!-- /run -->", re.DOTALL)


def relative(path):
    return str(path.relative_to(ROOT))


# ------------------------------------------------------------------ coverage


def contract_names():
    """Methods and fields of the environment contracts: who fulfils one need not describe it again."""
    tree = ast.parse((SRC / "envs" / "base.py").read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign):
            names.add(node.target.id)
    return names


def undocumented(path):
    """Public names of a module without a docstring; a method may take that of one of its name further up."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inherited, missing = contract_names(), []
    if tree.body and not ast.get_docstring(tree):
        missing.append("the module")

    def visit(node, prefix):
        for child in node.body:
            if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            if child.name.startswith("_"):
                continue
            is_method = bool(prefix) and not isinstance(child, ast.ClassDef)
            if ast.get_docstring(child):
                if is_method:
                    inherited.add(child.name)
            elif not (is_method and child.name in inherited):
                missing.append(prefix + child.name)
            if isinstance(child, ast.ClassDef):
                visit(child, f"{prefix}{child.name}.")

    visit(tree, "")
    return missing


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_public_names_are_documented(path):
    assert undocumented(path) == []


def test_exported_names_are_documented():
    for name in actrix.__all__:
        doc = getattr(actrix, name).__doc__
        assert (doc or "").strip(), name


def module_name(path):
    parts = path.relative_to(SRC.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_every_module_has_an_api_page():
    pages = "\n".join(p.read_text(encoding="utf-8") for p in (DOCS / "api").glob("*.md"))
    listed = set(re.findall(r"^::: (\S+)", pages, re.MULTILINE))
    public = set()
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        # Packages that hold no names of their own are not described; `actrix` itself is in the index.
        package = path.name == "__init__.py"
        own = path.parent != SRC and any(isinstance(n, ast.FunctionDef) for n in tree.body)
        if own or not package:
            public.add(module_name(path))
    assert listed == public


# ------------------------------------------------------------------ tables, commands, links


def test_generated_tables_are_up_to_date():
    spec = importlib.util.spec_from_file_location("gen_tables", DOCS / "gen_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.stale() == [], "run: python docs/gen_tables.py"


def test_make_commands_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        code = "\n".join([*re.findall(r"`([^`\n]+)`", text), *(m[2] for m in FENCE.findall(text))])
        for target in re.findall(r"(?:^|\n|; |&& )make ([\w-]+)", code):
            assert target in targets, f"{relative(page)}: make {target}"


def parser():
    from actrix import cli

    return cli._parser()


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_command_lines_parse(page):
    import shlex

    text = page.read_text(encoding="utf-8")
    for _, language, code in FENCE.findall(text):
        if language not in ("sh", "bash"):
            continue
        for line in code.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["actrix"]:
                try:
                    parser().parse_args(words[1:])
                except SystemExit:
                    pytest.fail(f"{relative(page)}: {line.strip()}")


def anchors(text):
    """The anchors of a page's headings, as the table of contents makes them."""
    from markdown.extensions.toc import slugify

    text = FENCE.sub("", text)
    found = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        found.add(slugify(re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading), "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_resolve(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://|mailto:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{relative(page)}: {target}"
        if anchor:
            assert anchor in anchors(path.read_text(encoding="utf-8")), f"{relative(page)}: {target}"


def test_code_paths_exist():
    """`critics/returns.py`, `gae` in the algorithm pages: the file exists and has that name."""
    for page in (DOCS / "algorithms").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        for file in re.findall(r"`([\w/]+\.py)`", text):
            assert (SRC / file).is_file(), f"{relative(page)}: {file}"
        for file, names in re.findall(r"`([\w/]+\.py)`((?:, `[\w.]+`)+)", text):
            source = (SRC / file).read_text(encoding="utf-8")
            for name in re.findall(r"`([\w.]+)`", names):
                for part in name.split("."):
                    assert re.search(rf"(def|class) {part}\b|^\s*{part}\b", source, re.MULTILINE), (
                        f"{relative(page)}: {file} has no {name}"
                    )


# ------------------------------------------------------------------ equations

INLINE = re.compile(r"\$([^$`\n]+?(?:\n[^$`\n]+?)?)\$")


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_equations_can_be_read_on_github_too(page):
    """It renders a block ```math as it is, but $…$ and $$…$$ only after Markdown, which eats "\\," and "\\{", takes two
    stars for emphasis and leaves what stands inside emphasis or beside a letter alone."""
    from markdown_it import MarkdownIt

    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    assert "$$" not in text
    plain = re.sub(r"`[^`\n]+`", "code", text)
    wanted = [m[1] for m in INLINE.finditer(plain)]
    for match in INLINE.finditer(plain):
        before, after = plain[: match.start()][-1:], plain[match.end() :][:1]
        assert before in ("", " ", "\n", "("), match.group()
        assert not after.isalnum(), match.group()
        assert not re.search(r"<\S", match.group()), match.group()
    found = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        node, depth = "", 0
        for child in [*(token.children or ()), None]:
            if child is not None and child.type in ("text", "softbreak"):
                node += child.content or "\n"
                continue
            found += [] if depth else INLINE.findall(node)
            node, depth = "", depth + (child.nesting if child is not None else 0)
    assert sorted(found) == sorted(wanted)


def test_the_site_asks_no_other_server():
    """Equations would be TeX wherever there is no network."""
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    extra = [
        file
        for files in re.findall(r"^extra_\w+: \[(.*)\]$", config, re.MULTILINE)
        for file in files.split(", ")
    ]
    assert {"katex/katex.min.js", "katex/katex.min.css"} <= set(extra)
    assert all((DOCS / file).is_file() for file in extra)
    assert not re.search(r"https?://", re.sub("#.*", "", config))
    style = (DOCS / "katex" / "katex.min.css").read_text(encoding="utf-8")
    fonts = re.findall(r"url\(([^)]+\.woff2)\)", style)  # every browser takes the first of a list that it can
    assert fonts
    assert all((DOCS / "katex" / font).is_file() for font in fonts)
    assert (DOCS / "katex" / "LICENSE").is_file()


# ------------------------------------------------------------------ code


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_python_blocks_compile(page):
    for indent, language, code in FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            lines = [line.removeprefix(indent) for line in code.splitlines()]
            ast.parse("\n".join(lines))


def few_steps(code):
    """The same code with training budgets cut to one chunk or two, and no terminal output."""
    code = re.sub(r"\.learn\([\d_]+", ".learn(512", code)
    return code.replace("n_steps=1024", "n_steps=64").replace("verbose=1", "verbose=0")


BLOCKS = [(p, i, code) for p in PAGES for i, code in enumerate(RUN.findall(p.read_text(encoding="utf-8")))]


@pytest.mark.parametrize(
    ("page", "code"), [(p, c) for p, _, c in BLOCKS], ids=[f"{relative(p)}-{i}" for p, i, _ in BLOCKS]
)
def test_marked_blocks_run(page, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(few_steps(code), f"{relative(page)} (block)", "exec"), {"__name__": "__main__"})


def test_readme_example_is_the_quickstart():
    (code,) = RUN.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert code == (ROOT / "examples" / "quickstart.py").read_text(encoding="utf-8")


# ------------------------------------------------------------------ what must not be there


def test_nothing_private_is_named():
    private = re.compile(
        r"/work/|/home/\w|/root/|/mnt/|\blocalhost\b|\b(?:10|192\.168|127)\.\d+\.\d+\b|\.internal\b|\.local\b",
        re.I,
    )
    for path in [*PAGES, *(ROOT / "examples").glob("*.py"), ROOT / "mkdocs.yml", DOCS / "gen_tables.py"]:
        found = private.search(path.read_text(encoding="utf-8"))
        assert found is None, f"{relative(path)}: {found.group()}"
