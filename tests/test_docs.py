"""The documentation says what the code does: coverage, links, commands, tables and examples."""

import ast
import functools
import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

import actrix

ROOT = Path(__file__).resolve().parent.parent
SRC, DOCS = ROOT / "src" / "actrix", ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *(ROOT / n for n in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))])
MODULES = sorted(p for p in SRC.rglob("*.py") if p.name != "__main__.py" and p.parent.name != "cli")
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
RUN = re.compile(r"<!-- run -->\s*```python\n(.*?)```\s*<!-- /run -->", re.DOTALL)


def relative(path):
    return str(path.relative_to(ROOT))


# ------------------------------------------------------------------ coverage


CONTRACTS = (
    "envs/base.py", "envs/tokens/env.py", "core/answers.py", "core/contract.py", "core/fit.py",
    "nets/memory/cells.py", "critics/value.py", "critics/policy_q.py",
    "critics/backups.py", "critics/represent.py", "actors/psi.py", "actors/policy_gradient.py", "actors/natural.py",
    "actors/pathwise.py",
)  # fmt: skip
"""Where abstract classes are."""


@functools.cache
def contract_names():
    """Methods and fields of the contracts: who fulfils one need not describe it again."""
    names = set()
    for node in (node for file in CONTRACTS for node in ast.walk(ast.parse((SRC / file).read_text("utf-8")))):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def undocumented(path):
    """Public names of a module without a docstring; a method may take that of one of its name further up."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inherited, missing = set(contract_names()), []
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


INNER = {
    *(f"actrix.doctor.{name}" for name in ("checks", "play")),
    *(f"actrix.envs.state.{name}" for name in ("known", "levels", "mujoco")),
    *(f"actrix.envs.workers.{name}" for name in ("child", "memory")),
}
"""Files whose room has one door, another file: nothing outside the room calls them."""


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
    assert listed == public - INNER
    assert public >= INNER


# ------------------------------------------------------------------ tables, commands, links


@pytest.mark.parametrize("script", ["gen_tables", "gen_stub"])
def test_what_is_generated_is_up_to_date(script):
    spec = importlib.util.spec_from_file_location(script, DOCS / f"{script}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.stale() == [], f"run: python docs/{script}.py"


def named_in(file):
    """What a file defines: 'function', 'CONSTANT', 'Class', 'Class.method', 'Class.field'."""
    names = set()

    def visit(node, prefix):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                names.add(prefix + child.name)
            if isinstance(child, ast.ClassDef):
                visit(child, f"{prefix}{child.name}.")
            targets = child.targets if isinstance(child, ast.Assign) else [getattr(child, "target", None)]
            names.update(prefix + target.id for target in targets if isinstance(target, ast.Name))

    visit(ast.parse(file.read_text(encoding="utf-8")), "")
    return names


PLACE = re.compile(r"`([^`]+)`")


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_places_in_the_code_exist(page):
    """`room/file.py`, and the classes and methods that follow it in a line or a cell."""
    for line in page.read_text(encoding="utf-8").splitlines():
        for cell in re.split(r"(?<!\\)\|", line):
            names = None
            for word in PLACE.findall(cell):
                name = word.partition("[")[0]
                if re.fullmatch(r"[\w/]+/\w+\.py", word):
                    files = [
                        folder / word for folder in (SRC, ROOT, ROOT / "src") if (folder / word).is_file()
                    ]
                    assert files, f"{relative(page)}: there is no {word}"
                    names = named_in(files[0])
                elif names is not None and re.fullmatch(r"[A-Z]\w*(\.\w+)?|\w+\.\w+", name):
                    assert name in names, f"{relative(page)}: {files[0].name} has no {name}"


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

    return cli.parser()


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
        given = re.search(r"\{#([\w-]+)\}$", heading)
        found.add(given[1] if given else slugify(re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading), "-"))
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

INLINE = re.compile(r"(?<![\\$])\$(?![\s`$])((?:\\.|[^\\$])+?)(?<![\s`])\$")


def hooks():
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def as_text(markdown):
    """What CommonMark leaves of a page's paragraphs and cells: where GitHub looks for $…$."""
    from markdown_it import MarkdownIt

    kept = {"softbreak": "\n", "hardbreak": "\n"}
    return "\n\n".join(
        "".join(t.content if t.type in ("text", "code_inline") else kept.get(t.type, "\0") for t in token.children)
        for token in MarkdownIt("commonmark").enable("table").parse(markdown)
        if token.type == "inline"
    )  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_equations_render_on_github_too(page):
    """Markdown eats `\\,` and may take `_` for emphasis: such equations are fences, or have backticks."""
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"\$`[^`]*`\$|`[^`\n]*`", "`", FENCE.sub("", text))
    assert "$$" not in prose, f"{relative(page)}: a display equation is a fence named math"
    alone = re.search(r"(?<!\\)\$\S.*", INLINE.sub("", prose))
    assert alone is None, f"{relative(page)}: no equation, as a space stands inside a dollar: {alone[0]}"
    left = as_text(text)
    for match in INLINE.finditer(prose):
        found = re.sub(r"\n\s+", "\n", match[0])
        assert found in left, f"{relative(page)}: write $`{match[1]}`$"


def test_inline_equations_with_backticks_are_equations_on_the_site():
    from markdown import Markdown

    html = Markdown(extensions=[hooks().Equations()]).convert(r"a $`\mathbb E\,x_1*y_1*`$ and `$x`")
    assert html == r'<p>a <span class="arithmatex">\(\mathbb E\,x_1*y_1*\)</span> and <code>$x</code></p>'


def site():
    """What the site is made with."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("!!python/", lambda *_: None)
    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    return yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)


def test_equations_need_no_network():
    config = site()
    for file in [*config["extra_css"], *config["extra_javascript"]]:
        assert (DOCS / file).is_file(), file
    css = (DOCS / "katex" / "katex.min.css").read_text(encoding="utf-8")
    for url in re.findall(r"url\(([^)]*)\)", css):
        assert (DOCS / "katex" / url).is_file(), url
    assert (DOCS / "katex" / "LICENSE").is_file()
    # The styles whose fonts are not there.
    missing = re.compile(r"\\(mathfrak|mathsf|mathscr|mathtt|texttt|textsf|frak|Bbb|boldsymbol|bm|pmb)\b")
    for page in PAGES:
        found = missing.search(page.read_text(encoding="utf-8"))
        assert found is None, f"{relative(page)}: {found.group()}: add KaTeX's font of it"


# ------------------------------------------------------------------ languages

CHINESE = sorted((DOCS / "zh").rglob("*.md"))
EXACT = re.compile(r"\$`[^`]*`\$|`[^`]+`|(?<![\\$])\$[^$]+\$|\]\[[\w.]+\]")


def exact(markdown):
    """What is not translated: code, equations, and of each table's row its code, equations and references."""
    rows = [line for line in FENCE.sub("", markdown).splitlines() if line.startswith("|")]
    code = ["\n".join(line.strip() for line in m[2].splitlines()) for m in FENCE.findall(markdown)]
    cells = [(len(re.split(r"(?<!\\)\|", row)), sorted(EXACT.findall(row))) for row in rows]
    return {"code": code, "rows": [(n, found) for n, found in cells]}


@pytest.mark.parametrize("page", CHINESE, ids=relative)
def test_both_languages_show_the_same_code_and_tables(page):
    twin = DOCS / page.relative_to(DOCS / "zh")
    ours, theirs = exact(page.read_text("utf-8")), exact(twin.read_text("utf-8"))
    assert ours["code"] == theirs["code"]
    for here, there in zip(ours["rows"], theirs["rows"], strict=True):
        assert here == there
    sections = [anchors(re.sub("^# .*", "", p.read_text("utf-8"))) for p in (page, twin)]
    assert sections[0] == sections[1]


LAB = [f"lab/{page.name}" for page in (DOCS / "lab").glob("*.md")]
IN_BOTH = {"index.md", "getting-started.md", "concepts.md", "theory.md", "algorithms/index.md", *LAB}


def in_navigation(entry):
    """The pages below an entry of it."""
    if isinstance(entry, str):
        return [entry]
    below = entry if isinstance(entry, list) else entry.values()
    return [page for inner in below for page in in_navigation(inner)]


def test_these_pages_are_there_in_chinese_and_the_switch_leads_to_each_and_back():
    *english, chinese = site()["nav"]
    assert {page.relative_to(DOCS / "zh").as_posix() for page in CHINESE} == IN_BOTH
    assert sorted(in_navigation(chinese)) == sorted(f"zh/{page}" for page in IN_BOTH)
    url = lambda name: re.sub(r"(index)?\.md$", "", name)
    pages = [SimpleNamespace(url=url(name)) for name in in_navigation([*english, chinese])]
    nav = SimpleNamespace(pages=pages, items=["all", SimpleNamespace(children=[])])
    config, switch = SimpleNamespace(extra={}, theme={}), hooks()
    switch.on_nav(nav, config, None)
    both = set(map(url, IN_BOTH))
    for page in pages:
        switch.on_page_context({}, page, config, nav)
        own = page.url.removeprefix("zh/")
        assert config.theme["language"] == ("en" if own == page.url else "zh")
        leads = {way["lang"]: way["link"] for way in config.extra["alternate"]}
        assert leads == {"en": own, "zh": f"zh/{own}" if own in both else "zh/"}


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
    ("page", "code"),
    # README's is an example, too, and runs there.
    [pytest.param(p, c, marks=pytest.mark.slow if p.name == "README.md" else ()) for p, _, c in BLOCKS],
    ids=[f"{relative(p)}-{i}" for p, i, _ in BLOCKS],
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
