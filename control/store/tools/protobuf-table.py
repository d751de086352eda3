#!/usr/bin/env python3
"""Writes src/http/protobuf/fields.txt, or src/apply/zero.txt, from the published definitions of Kubernetes.

usage: protobuf-table.py MODULES [zero] > fields.txt
MODULES is a Go module cache's k8s.io folder that holds api@VERSION and apimachinery@VERSION.
A line is a message and its fields: NAME:NUMBER:TYPE, where TYPE is s(tring), b(ool), i(nteger), d(ouble),
y (bytes) or a message, after * if repeated, % if a map by string, ^ if its fields stand in the outer
object, and before ! if zero is said and not left out. A line of zero.txt is a kind and the JSON of an empty
object of it, as the server's own encoder writes it.
"""
import glob, json, re, sys

ROOTS = """core.v1: Namespace Node Pod Service Endpoints ConfigMap Secret ServiceAccount Event Binding
apps.v1: Deployment ReplicaSet
discovery.v1: EndpointSlice
coordination.v1: Lease
events.v1: Event
certificates.v1: CertificateSigningRequest
rbac.v1: Role ClusterRole RoleBinding ClusterRoleBinding
authentication.v1: TokenReview TokenRequest SelfSubjectReview
authorization.v1: SubjectAccessReview SelfSubjectAccessReview LocalSubjectAccessReview SelfSubjectRulesReview
policy.v1: Eviction
autoscaling.v1: Scale
meta.v1: DeleteOptions"""
SCALARS = {"string": "s", "bool": "b", "int32": "i", "int64": "i", "uint32": "i", "double": "d", "bytes": "y"}


def short(package):
    return re.sub(r"^k8s\.io\.(api|apimachinery\.pkg\.(apis|api|util|runtime))\.", "", package)


def messages(root):
    """(message, number) -> type and name, from generated.proto."""
    found = {}
    for path in glob.glob(f"{root}/**/generated.proto", recursive=True):
        text = re.sub(r"//.*", "", open(path).read())
        package = re.search(r"^package (\S+);", text, re.M).group(1)
        for name, body in re.findall(r"^message (\w+) \{(.*?)^\}", text, re.M | re.S):
            fields = {}
            pattern = r"(optional|repeated|map)\s*(?:<\s*string\s*,\s*(\S+?)\s*>)?\s*([\w.]*)\s+(\w+) = (\d+);"
            for how, value, kind, field, number in re.findall(pattern, body):
                kind = value or kind
                if kind not in SCALARS:
                    kind = short(kind.lstrip(".")) if "." in kind else f"{short(package)}.{kind}"
                mark = {"repeated": "*", "map": "%"}.get(how, "")
                fields[int(number)] = (field, mark, SCALARS.get(kind, kind))
            found[f"{short(package)}.{name}"] = fields
    return found


def tags(root):
    """(message, number) -> JSON name, inline, pointer, omitempty, from the Go structures."""
    found = {}
    for path in glob.glob(f"{root}/**/types*.go", recursive=True):
        parts = path.split("/")
        package = ".".join(parts[-3:-1])
        for name, body in re.findall(r"^type (\w+) struct \{(.*?)^\}", open(path).read(), re.M | re.S):
            for kind, tag, number in re.findall(r"(\S+)\s+`json:\"([^\"]*)\"[^`]*protobuf:\"\w+,(\d+),", body):
                words = tag.split(",")
                found[(f"{package}.{name}", int(number))] = (
                    words[0], "inline" in words, kind.startswith("*"), "omitempty" in words, "omitzero" in words)
    return found


def zero(message, found, known):
    """JSON of a structure nobody has filled."""
    if message in ("meta.v1.Time", "meta.v1.MicroTime"):
        return None
    value = {}
    for number, (field, mark, kind) in sorted(found[message].items()):
        name, inline, pointer, omit, omit_zero = known.get((message, number), (field, False, False, True, True))
        structure = len(kind) > 1 and not mark and not pointer
        if inline:
            value.update(zero(kind, found, known))
        elif omit_zero or (omit and not structure):
            continue
        elif pointer or mark:
            value[name] = None
        elif structure:
            value[name] = zero(kind, found, known)
        else:
            value[name] = {"s": "", "b": False, "i": 0, "d": 0}.get(kind)
    return value


def main():
    modules = sys.argv[1]
    found, known = {}, {}
    for module in ("api", "apimachinery"):
        root = sorted(glob.glob(f"{modules}/{module}@*"))[-1]
        found.update(messages(root))
        known.update(tags(root))
    todo = [f"{line.split(':')[0]}.{kind}" for line in ROOTS.splitlines() for kind in line.split(":")[1].split()]
    if sys.argv[2:] == ["zero"]:
        for message in sorted(todo):
            print(message, json.dumps(zero(message, found, known), separators=(",", ":")))
        return
    done = set()
    while todo:
        message = todo.pop()
        if message in done or message not in found:
            continue
        done.add(message)
        todo += [kind for _, _, kind in found[message].values() if len(kind) > 1]
    for message in sorted(done):
        shown = []
        for number, (field, mark, kind) in sorted(found[message].items()):
            name, inline, pointer, omit, _ = known.get((message, number), (field, False, False, True, True))
            if inline:
                name, mark = field, "^"
            shown.append(f"{name or field}:{number}:{mark}{kind}{'!' if pointer or not omit else ''}")
        print(message, *shown)


main()
