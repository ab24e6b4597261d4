#!/usr/bin/env python3
"""Two types of one qualified name with different bodies break the one definition rule: the linker keeps one of their
inline members for both, and the program crashes far from the cause. No compiler sees it, so this script lists every
class, struct, union and enum at namespace scope (anonymous namespaces are apart, as the language has it) and fails on
a name that is defined twice in one program: two sources under src/ and kernels/, or a test and what it tests. Tests of
two programs may repeat a name. Run from anywhere."""

import collections
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SUFFIXES = (".h", ".cc", ".cu", ".cuh")

# What the scanner looks at, one alternative a kind; everything else is skipped a character at a time.
TOKEN = re.compile(
    r"""(?P<skip> //[^\n]* | /\*.*?\*/ | R"(?P<mark>[^()\s\\]*)\(.*?\)(?P=mark)" | "(?:\\.|[^"\\\n])*"
                | (?<![0-9A-Fa-f])'(?:\\.|[^'\\\n])+' | ^[ \t]*\#(?:\\\n|[^\n])*)
      | (?P<word> [A-Za-z_]\w*) | (?P<mark2> [{};]) """, re.VERBOSE | re.DOTALL | re.MULTILINE)
# A definition's head, from the last ; or brace up to its own {.
TYPE_HEAD = re.compile(r"""(?:^|[\s>])(?:enum\s+(?:class\s+|struct\s+)?|class\s+|struct\s+|union\s+)
                           (?:alignas\s*\([^)]*\)\s*|\[\[[^\]]*\]\]\s*|[A-Z][A-Z0-9_]*\s+)*
                           (?P<name>[A-Za-z_][\w:]*\s*(?:<[^{}]*>)?)\s*(?:final\s*)?(?::[^{]*)?$""", re.VERBOSE | re.DOTALL)
NAMESPACE_HEAD = re.compile(r"(?:^|\s)namespace\b\s*(?:\[\[[^\]]*\]\]\s*)?(?P<name>[\w:\s]*?)\s*$")
TEMPLATE = re.compile(r"template\s*<(?:[^<>]|<(?:[^<>]|<[^<>]*>)*>)*>")


def definitions(text):
    """Yields (qualified name, line) of each type that `text` defines at namespace scope, but in anonymous namespaces."""
    scopes = []  # a name for a namespace, "" for an anonymous one, None for any other brace
    head_start = 0
    for token in TOKEN.finditer(text):
        if token.lastgroup != "mark2" and token["mark2"] is None:
            continue
        if token[0] == "{":
            head = TEMPLATE.sub(" ", blank(text[head_start:token.start()]))
            namespace = NAMESPACE_HEAD.search(head)
            if namespace:
                scopes.append(namespace["name"].replace("inline ", "").strip())
            else:
                kind = TYPE_HEAD.search(head) if "=" not in head and ")" not in strip_attributes(head) else None
                if kind and all(scopes):
                    name = re.sub(r"\s+", "", kind["name"])
                    yield "::".join([*scopes, name]), text.count("\n", 0, token.start()) + 1
                scopes.append(None)
        elif token[0] == "}" and scopes:
            scopes.pop()
        head_start = token.end()


def strip_attributes(head):
    return re.sub(r"alignas\s*\([^)]*\)|__\w+__\s*\(\(?[^)]*\)?\)", " ", head)


def blank(text):
    """Comments, strings and preprocessor lines as spaces."""
    return TOKEN.sub(lambda token: " " if token["skip"] is not None else token[0], text)


def program_of(path):
    """Names may not repeat within a program. Sources of the project are in all of them, as are the headers that tests
    share; a test's own source is in one."""
    parts = path.parts
    return str(path) if parts[0] in ("tests", "bench") and path.suffix in (".cc", ".cu") else ""


def collisions(files):
    """`files`: pairs of path and text. Yields a line for each name that one program has twice."""
    found = collections.defaultdict(list)
    for path, text in files:
        for name, line in definitions(text):
            found[name].append((path, line))
    for name, places in sorted(found.items()):
        shared = [place for place in places if program_of(place[0]) == ""]
        own = collections.Counter(program_of(place[0]) for place in places if program_of(place[0]))
        if len(shared) > 1 or (shared and own) or any(count > 1 for count in own.values()):
            yield f"{name} is defined at " + " and ".join(f"{path}:{line}" for path, line in places)


# The scanner is held to these: name, files, and the names that must be reported.
SELF_TEST = [
    ("two sources", {"src/a/a.cc": "namespace moed { class Decoder { int x; }; }",
                     "src/b/b.h": "namespace moed {\nstruct Decoder final : public Base<int> {\n};\n}"}, ["moed::Decoder"]),
    ("anonymous namespaces are apart", {"src/a/a.cc": "namespace moed { namespace { struct State { }; } }",
                                        "src/b/b.cc": "namespace moed::x { namespace { struct State { }; } }"}, []),
    ("other namespaces, nested and local types", {
        "src/a/a.cc": "namespace moed::a { struct S { struct T { }; }; void F() { struct T { }; } }",
        "src/b/b.cc": "namespace moed::b { struct S { }; class T { }; } "}, []),
    ("declarations, comments, strings, macros", {
        "src/a/a.cc": "namespace moed { class S; /* struct S { } */ const char* s = \"struct S {\"; // struct S {\n"
                      "#define X struct S {\n enum class S : int { kOne = 1'000, kTwo = '{' }; }",
        "src/b/b.cc": "namespace moed { struct S* F(struct S s) { return 0; } auto r = R\"(class S {)\"; class S; }"}, []),
    ("templates, their specialisations, attributes", {
        "src/a/a.cc": "namespace moed { template <typename T, typename = std::pair<int, T>> class Box { };\n"
                      "template <> class Box<int> { }; class alignas(64) Line { }; }",
        "src/b/b.cc": "namespace moed { template <class U> struct Box { }; struct Line { }; }"},
     ["moed::Box", "moed::Line"]),
    ("tests of two programs", {"tests/a/a_test.cc": "namespace moed { struct Row { }; }",
                               "tests/b/b_test.cc": "namespace moed { struct Row { }; }"}, []),
    ("a test and what it tests", {"tests/a/a_test.cc": "namespace moed { struct Row { }; }",
                                  "src/b/b.h": "namespace moed { struct Row { }; }"}, ["moed::Row"]),
]


def self_test():
    for name, files, expected in SELF_TEST:
        lines = list(collisions((pathlib.PurePosixPath(path), text) for path, text in files.items()))
        if [line.split(" ")[0] for line in lines] != expected:
            yield f"self-test, {name}: expected {expected}, got {lines}"


def sources():
    for top in ("src", "kernels", "tests", "bench"):
        for path in sorted((ROOT / top).rglob("*")):
            if path.suffix in SUFFIXES:
                yield path.relative_to(ROOT), path.read_text(encoding="utf-8")


def main():
    found = [*self_test(), *collisions(sources())]
    for line in found:
        print(line)
    print(f"names: {len(found)} types defined twice")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
