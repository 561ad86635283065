#!/usr/bin/env python3
"""Replay recorded GraphQL cases against a Dagger-compatible CLI and report differences.

Standard library only. `run.py --help` lists the options; README.md explains the case format.
"""
import argparse, base64, concurrent.futures, hashlib, http.server, io, json, os, re, shutil, signal, socket, socketserver
import subprocess, sys, tarfile, tempfile, threading, time, traceback, urllib.error, urllib.request, gzip
from pathlib import Path

HERE = Path(__file__).resolve().parent
DEFAULT_VIEW = "v0.14.0"
ACCEPT = ", ".join("application/vnd." + t for t in (
    "oci.image.index.v1+json", "oci.image.manifest.v1+json",
    "docker.distribution.manifest.list.v2+json", "docker.distribution.manifest.v2+json"))


class CaseError(Exception):
    """The case could not be carried out (as opposed to: was carried out and answered differently)."""


# ---------------------------------------------------------------- sessions

class Session:
    """One `dagger session` child; closed by closing its stdin."""

    def __init__(self, cli, cwd, view, env, labels=None, timeout=60):
        self.log = tempfile.NamedTemporaryFile("w+", prefix="conformance-", suffix=".log", delete=False)
        args = [cli, "session"]
        for k, v in (labels or {"dagger.io/sdk.name": "go", "dagger.io/sdk.version": view.lstrip("v")}).items():
            args += ["--label", f"{k}:{v}"]
        if view:
            args += ["--version", view]
        self.proc = subprocess.Popen(args, cwd=cwd, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log)
        killer = threading.Timer(timeout, self.proc.kill)
        killer.start()
        line = self.proc.stdout.readline()
        killer.cancel()
        try:
            hello = json.loads(line)
            self.port, self.token = hello["port"], hello["session_token"]
        except Exception:
            code = self.proc.wait()
            self.log.seek(0)
            said = self.log.read()[-600:].strip()
            self.log.close()
            os.unlink(self.log.name)
            raise CaseError(f"session did not start (exit {code}): {said}")

    def post(self, body, timeout, headers=None, auth=True, method="POST", path="/query"):
        h = {"Content-Type": "application/json"}
        if auth:
            h["Authorization"] = "Basic " + base64.b64encode(f"{self.token}:".encode()).decode()
        h.update(headers or {})
        h = {k: v for k, v in h.items() if v is not None}
        if isinstance(body, str):
            body = body.encode()
        return fetch(f"http://127.0.0.1:{self.port}{path}", h, timeout, body, method)

    def close(self, timeout=60):
        try:
            self.proc.stdin.close()
        except OSError:
            pass
        try:
            code = self.proc.wait(timeout)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            code = "killed after timeout"
        self.log.close()
        os.unlink(self.log.name)
        return code


def fetch(url, headers=None, timeout=30, body=None, method=None):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, body, headers or {}, method=method), timeout=timeout) as r:
            return r.status, dict(r.headers), r.read()
    except urllib.error.HTTPError as e:
        return e.code, dict(e.headers), e.read()


# ---------------------------------------------------------------- matching

def show(v, n=300):
    s = json.dumps(v, ensure_ascii=False)
    return s if len(s) <= n else s[:n] + f"…({len(s)} chars)"


KINDS = {"string": str, "int": int, "bool": bool, "list": list, "object": dict, "null": type(None)}


def is_matcher(v):
    return isinstance(v, dict) and v and all(k.startswith("$") for k in v)


def match(want, got, where, ctx, out):
    """Append a line to `out` for every difference of `got` from `want`."""
    if is_matcher(want):
        for k, arg in want.items():
            match_one(k, arg, got, where, ctx, out)
    elif isinstance(want, dict):
        if not isinstance(got, dict):
            out.append(f"{where}: expected an object, got {show(got)}")
            return
        for k in want:
            if k not in got:
                out.append(f"{where}.{k}: missing")
            else:
                match(want[k], got[k], f"{where}.{k}", ctx, out)
        for k in got:
            if k not in want:
                out.append(f"{where}.{k}: unexpected {show(got[k])}")
    elif isinstance(want, list):
        if not isinstance(got, list):
            out.append(f"{where}: expected a list, got {show(got)}")
        elif len(want) != len(got):
            out.append(f"{where}: expected {len(want)} items {show(want)}, got {len(got)}: {show(got)}")
        else:
            for i, (w, g) in enumerate(zip(want, got)):
                match(w, g, f"{where}[{i}]", ctx, out)
    else:
        if isinstance(want, str):
            want = ctx.subst(want)
        if type(want) is not type(got) or want != got:
            out.append(f"{where}: expected {show(want)}, got {show(got)}")


def match_one(k, arg, got, where, ctx, out):
    bad = lambda what: out.append(f"{where}: expected {what}, got {show(got)}")
    if k == "$any":
        if arg and (not isinstance(got, KINDS[arg]) or (arg == "int" and isinstance(got, bool))):
            bad(f"any {arg}")
    elif k == "$id":
        if not isinstance(got, str) or not got:
            bad(f"an ID ({arg})")
    elif k == "$re":
        if not isinstance(got, str) or not re.search(ctx.subst(arg), got):
            bad(f"a string matching {ctx.subst(arg)!r}")
    elif k == "$digest":
        if not isinstance(got, str) or not re.fullmatch(r"sha256:[0-9a-f]{64}" if arg == "sha256" else r"[a-z0-9+.-]+:[0-9a-f]{16,}", got):
            bad("a digest")
    elif k == "$set":
        rest = list(got) if isinstance(got, list) else None
        if rest is None or len(rest) != len(arg):
            return bad(f"in any order {show(arg)}")
        for w in arg:
            for i, g in enumerate(rest):
                tmp = []
                match(w, g, where, ctx, tmp)
                if not tmp:
                    del rest[i]
                    break
            else:
                return bad(f"in any order {show(arg)}")
    elif k == "$has":
        if isinstance(got, str):
            for w in arg:
                if ctx.subst(w) not in got:
                    bad(f"a string containing {ctx.subst(w)!r}")
        elif isinstance(got, list):
            for w in arg:
                if not any(not match_quiet(w, g, ctx) for g in got):
                    bad(f"a list with {show(w)}")
        elif isinstance(got, dict):
            for key, w in arg.items():
                if key not in got:
                    bad(f"a key {key!r}")
                else:
                    match(w, got[key], f"{where}.{key}", ctx, out)
        else:
            bad(f"something containing {show(arg)}")
    elif k == "$hasnot":
        for w in arg:
            if (isinstance(got, str) and ctx.subst(w) in got) or (isinstance(got, (list, dict)) and w in got):
                bad(f"nothing containing {show(w)}")
    elif k == "$len":
        if not hasattr(got, "__len__") or match_quiet(arg, len(got), ctx):
            bad(f"length {show(arg)}")
    elif k == "$range":
        if isinstance(got, bool) or not isinstance(got, (int, float)) or not arg[0] <= got <= arg[1]:
            bad(f"a number from {arg[0]} to {arg[1]}")
    elif k == "$oneof":
        if all(match_quiet(w, got, ctx) for w in arg):
            bad(f"one of {show(arg)}")
    elif k == "$each":
        if not isinstance(got, list):
            return bad("a list")
        for i, g in enumerate(got):
            match(arg, g, f"{where}[{i}]", ctx, out)
    elif k == "$bound":
        if got != ctx.names.get(arg):
            bad(f"the same as {arg} = {show(ctx.names.get(arg))}")
    elif k == "$notbound":
        if got == ctx.names.get(arg):
            bad(f"something other than {arg}")
    elif k == "$json":
        try:
            match(arg, json.loads(got), where + "(json)", ctx, out)
        except (TypeError, ValueError):
            bad("JSON text")
    elif k == "$type":
        pass
    else:
        raise CaseError(f"unknown matcher {k}")


def match_quiet(want, got, ctx):
    tmp = []
    match(want, got, "", ctx, tmp)
    return tmp


# ---------------------------------------------------------------- files and servers on the host

def text(v):
    """Text may be written as a list of lines (each gets a newline)."""
    return "".join(line + "\n" for line in v) if isinstance(v, list) else v


def write_files(root, files, ctx):
    for name, spec in files.items():
        p = root / name
        if name.endswith("/"):
            p.mkdir(parents=True, exist_ok=True)
            if isinstance(spec, dict) and "mode" in spec:
                p.chmod(int(spec["mode"], 8))
            continue
        p.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(spec, dict):
            spec = {"contents": spec}
        if "symlink" in spec:
            p.symlink_to(spec["symlink"])
            continue
        if "base64" in spec:
            p.write_bytes(base64.b64decode(spec["base64"]))
        elif "repeat" in spec:
            p.write_bytes((spec["repeat"][0] * spec["repeat"][1]).encode())
        else:
            p.write_text(ctx.subst(text(spec["contents"])))
        p.chmod(int(spec.get("mode", "0644"), 8))
        if "mtime" in spec:
            os.utime(p, (spec["mtime"], spec["mtime"]))


def describe(p):
    st = p.lstat()
    mode = f"{st.st_mode & 0o7777:04o}"
    if p.is_symlink():
        return {"symlink": os.readlink(p)}
    if p.is_dir():
        return {"dir": mode}
    data = p.read_bytes()
    d = {"mode": mode}
    if len(data) > 2000:
        d["size"] = len(data)
    else:
        d["contents"] = data.decode("utf-8", "backslashreplace")
    return d


def tree(p):
    if not p.exists() and not p.is_symlink():
        return None
    if not p.is_dir() or p.is_symlink():
        return describe(p)
    return {str(f.relative_to(p)): describe(f) for f in sorted(p.rglob("*"))}


class OCI:
    """Reads an image from a registry or an OCI/docker tar and condenses it to what may be compared."""

    def __init__(self, ref, ctx):
        self.tar = None
        self.docker = None
        if ref.startswith("registry:"):
            name, sep, tag = ref[len("registry:"):].partition("@")
            if not sep:
                name, _, tag = ref[len("registry:"):].rpartition(":")
            self.base = f"http://{ctx.registry}/v2/{name}"
            st, hd, body = fetch(f"{self.base}/manifests/{tag}", {"Accept": ACCEPT})
            if st != 200:
                raise CaseError(f"registry answered {st} for {ref}: {body[:200]!r}")
            self.root = body
            self.digest = hd.get("Docker-Content-Digest")
        else:
            raw = (ctx.workdir / ref).read_bytes()
            self.tar = tarfile.open(fileobj=io.BytesIO(raw))
            self.names = set(self.tar.getnames())
            self.root = self.tar.extractfile("index.json").read()
            if "manifest.json" in self.names:
                self.docker = json.loads(self.tar.extractfile("manifest.json").read())

    def blob(self, digest, kind="blobs"):
        if self.tar:
            return self.tar.extractfile("blobs/" + digest.replace(":", "/")).read()
        st, _, body = fetch(f"{self.base}/{kind}/{digest}", {"Accept": ACCEPT})
        if st != 200:
            raise CaseError(f"registry answered {st} for {kind} {digest}")
        return body

    def summary(self, paths):
        root = json.loads(self.root)
        out = {}
        if self.tar:
            out["layout"] = sorted(n for n in self.names if n in ("index.json", "manifest.json", "oci-layout"))
            if self.docker:
                out["docker"] = [{"RepoTags": m.get("RepoTags"), "layers": len(m["Layers"]) > 0} for m in self.docker]
            inner = root["manifests"]
            if len(inner) == 1 and "index" in inner[0].get("mediaType", "") or "list" in inner[0].get("mediaType", ""):
                out["outerAnnotations"] = self.notes(inner[0].get("annotations"))
                root = json.loads(self.blob(inner[0]["digest"], "manifests"))
        out["mediaType"] = root.get("mediaType")
        if "manifests" in root:
            out["annotations"] = self.notes(root.get("annotations"))
            ms = []
            for d in root["manifests"]:
                m = self.manifest(json.loads(self.blob(d["digest"], "manifests")), paths)
                p = d.get("platform") or {}
                m["descriptorPlatform"] = "/".join(x for x in (p.get("os"), p.get("architecture"), p.get("variant")) if x) or None
                m["descriptorAnnotations"] = self.notes(d.get("annotations"))
                ms.append(m)
            out["manifests"] = sorted(ms, key=lambda m: m["platform"])
        else:
            out["manifest"] = self.manifest(root, paths)
        return out

    @staticmethod
    def notes(a):
        drop = ("org.opencontainers.image.created", "io.containerd", "containerd.io/", "config.digest", "containerimage", "buildkit/", "org.mobyproject")
        return {k: v for k, v in (a or {}).items() if not k.startswith(drop)}

    def manifest(self, m, paths):
        cfg = json.loads(self.blob(m["config"]["digest"]))
        c = {k: v for k, v in (cfg.get("config") or {}).items() if v not in (None, [], {}, "", False)}
        c.pop("Image", None)
        c.pop("Hostname", None)
        c.pop("ArgsEscaped", None)
        if "Labels" in c:  # the stand-in images carry this one
            c["Labels"] = {k: v for k, v in c["Labels"].items() if k != "org.opencontainers.image.source"}
        out = {
            "mediaType": m.get("mediaType"), "annotations": self.notes(m.get("annotations")),
            "configType": m["config"].get("mediaType"),
            "layerTypes": sorted({l["mediaType"] for l in m["layers"]}),
            "platform": "/".join(x for x in (cfg.get("os"), cfg.get("architecture"), cfg.get("variant")) if x),
            "config": c,
        }
        if paths:
            out["paths"] = self.look(m["layers"], paths)
        return out

    def look(self, layers, paths):
        seen = {}
        for l in layers:
            raw = self.blob(l["digest"])
            if "zstd" in l["mediaType"]:
                return "zstd"
            if raw[:2] == b"\x1f\x8b":
                raw = gzip.decompress(raw)
            with tarfile.open(fileobj=io.BytesIO(raw)) as t:
                for e in t:
                    n = e.name.removeprefix("./").strip("/")
                    base = os.path.basename(n)
                    if base.startswith(".wh."):
                        gone = os.path.join(os.path.dirname(n), base[4:])
                        for k in [k for k in seen if k == gone or k.startswith(gone + "/")]:
                            del seen[k]
                    elif n in paths or any(n.startswith(p + "/") for p in paths):
                        d = {"mode": f"{e.mode & 0o7777:04o}", "owner": f"{e.uid}:{e.gid}"}
                        if e.isdir():
                            d["dir"] = True
                        elif e.issym():
                            d["symlink"] = e.linkname
                            del d["mode"]
                        elif e.isfile():
                            d["contents"] = t.extractfile(e).read().decode("utf-8", "backslashreplace")[:2000]
                        seen[n] = d
        return dict(sorted(seen.items()))


class Server:
    """A server on the runner's machine for host services, tunnels' peers and sockets."""

    def __init__(self, kind, spec, ctx):
        reply = text(spec.get("reply", "hello\n"))
        if kind == "http":
            routes = spec.get("routes", {"/": reply})

            class H(http.server.BaseHTTPRequestHandler):
                def do_GET(self):
                    r = routes.get(self.path)
                    if r is None:
                        self.send_error(404)
                        return
                    r = r if isinstance(r, dict) else {"body": r}
                    body = ctx.subst(text(r.get("body", ""))).encode()
                    self.send_response(r.get("status", 200))
                    for k, v in r.get("headers", {}).items():
                        self.send_header(k, ctx.subst(v))
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

                def log_message(self, *a):
                    pass
            self.s = http.server.ThreadingHTTPServer(("0.0.0.0", 0), H)
            self.name = str(self.s.server_address[1])
        else:
            class T(socketserver.BaseRequestHandler):
                def handle(self):
                    if spec.get("echo"):
                        data = self.request.recv(4096)
                        self.request.sendall(reply.encode() + data)
                    else:
                        self.request.sendall(reply.encode())
            if kind == "unix":
                class S(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
                    daemon_threads = True
                self.s = S(str(ctx.workdir / spec["path"]), T)
                self.name = spec["path"]
            else:
                class S(socketserver.ThreadingTCPServer):
                    daemon_threads = True
                    allow_reuse_address = True
                self.s = S(("0.0.0.0", 0), T)
                self.name = str(self.s.server_address[1])
        threading.Thread(target=self.s.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self):
        self.s.shutdown()
        self.s.server_close()


# ---------------------------------------------------------------- running a case

class Run:
    def __init__(self, case, opts):
        self.case, self.opts = case, opts
        self.registry = opts.registry
        self.workdir = Path(tempfile.mkdtemp(prefix="conf-"))
        self.workdir.chmod(0o755)
        run_id = hashlib.sha256(f"{os.getpid()}{time.time_ns()}{case['name']}".encode()).hexdigest()[:12]
        self.names = {"registry": self.registry, "workdir": str(self.workdir), "run": run_id}
        self.sessions, self.servers, self.diffs = {}, [], []
        self.starting = threading.Lock()  # parallel steps share sessions
        self.record = opts.record

    def subst(self, s, escape=False):
        def rep(m):
            if m.group(1) not in self.names:
                return m.group(0)
            v = self.names[m.group(1)]
            v = v if isinstance(v, str) else json.dumps(v)
            return json.dumps(v)[1:-1] if escape else v
        return re.sub(r"\{\{([A-Za-z_]\w*)\}\}", rep, s)

    def deep(self, v):
        if isinstance(v, str):
            m = re.fullmatch(r"\{\{(\w+)\}\}", v)
            return self.names[m.group(1)] if m and m.group(1) in self.names else self.subst(v)
        if isinstance(v, list):
            return [self.deep(x) for x in v]
        if isinstance(v, dict):
            return {k: self.deep(x) for k, x in v.items()}
        return v

    def env(self):
        e = dict(os.environ)
        for k, v in self.case.get("env", {}).items():
            if v is None:
                e.pop(k, None)
            else:
                e[k] = self.subst(v)
        return e

    def session(self, name="main"):
        with self.starting:
            if name not in self.sessions:
                self.sessions[name] = Session(self.opts.cli, self.workdir, self.case.get("view", DEFAULT_VIEW), self.env(), self.case.get("labels"))
            return self.sessions[name]

    def post(self, step):
        body = {"query": self.subst(doc(step["query"]), escape=True)}
        if "variables" in step:
            body["variables"] = self.deep(step["variables"])
        if "operationName" in step:
            body["operationName"] = step["operationName"]
        st, hd, raw = self.session(step.get("session", "main")).post(json.dumps(body), step.get("timeout", self.opts.timeout))
        try:
            return st, hd, json.loads(raw)
        except ValueError:
            return st, hd, {"raw": raw.decode("utf-8", "replace")}

    def go(self):
        self.workdir.joinpath(".").mkdir(exist_ok=True)
        write_files(self.workdir, self.case.get("files", {}), self)
        for name, q in self.case.get("let", {}).items():
            st, _, a = self.post({"query": q})
            if a.get("errors") or st != 200:
                raise CaseError(f"let {name}: {show(a, 600)}")
            self.names[name] = leaf(a["data"])
        steps = self.case["steps"] if "steps" in self.case else [self.case]
        for i, s in enumerate(steps):
            self.step(s, f"step {i + 1}" if len(steps) > 1 else "")
            if self.diffs and not self.record:
                break
        return self.diffs

    def step(self, s, where):
        if "parallel" in s:
            with concurrent.futures.ThreadPoolExecutor(len(s["parallel"])) as ex:
                for f in [ex.submit(self.step, x, f"{where}.{j + 1}") for j, x in enumerate(s["parallel"])]:
                    f.result()
            return
        if "delay" in s:
            time.sleep(s["delay"])
        kind = next((k for k in STEPS if k in s), None)
        if not kind:
            raise CaseError(f"unknown step {show(s)}")
        got = getattr(self, "do_" + kind)(s)
        if got is None:
            return
        for name, path in s.get("bind", {}).items():
            self.names[name] = dig(got, path)
        if self.record:
            self.record(self, s, got)
        elif "expect" in s:
            want = s["expect"]
            out = []
            for k in want:
                if k == "error":
                    self.match_error(want[k], got, where, out)
                elif k not in got:
                    out.append(f"{where} {k}: missing in {show(got)}")
                else:
                    match(want[k], got[k], f"{where} {k}".strip(), self, out)
            if ("data" in want or "leaf" in want) and got.get("errors"):
                out = [f"{where} unexpected error: {show([e.get('message') for e in got['errors']], 800)}"]
            self.diffs += out

    def match_error(self, want, got, where, out):
        errs = got.get("errors")
        if not errs:
            out.append(f"{where}: expected an error, got {show(got)}")
            return
        best = None
        for e in errs:
            tmp = []
            msg = e.get("message", "")
            for w in want.get("message_contains", []):
                if self.subst(w) not in msg:
                    tmp.append(f"{where} error message: expected …{self.subst(w)!r}…, got {show(msg, 800)}")
            if "path" in want and e.get("path") != want["path"]:
                tmp.append(f"{where} error path: expected {show(want['path'])}, got {show(e.get('path'))}")
            if "extensions" in want:
                if want["extensions"] is None:
                    if e.get("extensions"):
                        tmp.append(f"{where} error extensions: expected none, got {show(e['extensions'])}")
                else:
                    match(want["extensions"], e.get("extensions"), f"{where} error extensions", self, tmp)
            if best is None or len(tmp) < len(best):
                best = tmp
        out += best

    # one method per kind of step; the returned dict is compared with "expect"

    def do_query(self, s):
        st, hd, a = self.post(s)
        if not a.get("errors") and isinstance(a.get("data"), dict):
            a["leaf"] = unwrap(a["data"])
        a["status"] = st
        a["contentType"] = hd.get("Content-Type")
        return a

    def do_http(self, s):
        h = s["http"]
        body = h.get("body")
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
        st, hd, raw = self.session(s.get("session", "main")).post(
            None if body is None else self.subst(body), self.opts.timeout, h.get("headers"), h.get("auth", True), h.get("method", "POST"), h.get("path", "/query"))
        out = {"status": st, "headers": {k.lower(): v for k, v in hd.items()}, "body": raw.decode("utf-8", "replace")}
        try:
            out["json"] = json.loads(raw)
        except ValueError:
            pass
        return out

    def do_cli(self, s):
        p = subprocess.Popen([self.opts.cli] + [self.subst(a) for a in s["cli"]], cwd=self.workdir / s.get("cwd", "."), env=self.env(),
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        try:
            so, se = p.communicate(self.subst(text(s.get("stdin", ""))).encode(), timeout=self.opts.timeout)
        except subprocess.TimeoutExpired:
            os.killpg(p.pid, signal.SIGKILL)  # the group is this child's own
            p.wait()
            raise CaseError(f"{' '.join(s['cli'])} did not end within {self.opts.timeout:.0f} s")
        out = {"exit": p.returncode, "stdout": so.decode("utf-8", "replace"), "stderr": se.decode("utf-8", "replace")}
        try:
            out["json"] = json.loads(out["stdout"])
        except ValueError:
            pass
        return out

    def do_fetch(self, s):
        deadline = time.time() + s.get("retry", 0)
        while True:
            try:
                st, hd, raw = fetch(self.subst(s["fetch"]), s.get("headers"), 10)
                return {"status": st, "headers": {k.lower(): v for k, v in hd.items()}, "body": raw.decode("utf-8", "replace")}
            except OSError as e:
                if time.time() > deadline:
                    return {"status": 0, "body": "connection failed"}
                time.sleep(0.1)

    def do_dial(self, s):
        host, _, port = self.subst(s["dial"]).rpartition(":")
        try:
            with socket.create_connection((host, int(port)), 10) as c:
                if "send" in s:
                    c.sendall(s["send"].encode())
                c.settimeout(10)
                data = b""
                while True:
                    d = c.recv(4096)
                    if not d:
                        break
                    data += d
                    if "until" in s and s["until"].encode() in data:
                        break
                return {"connected": True, "received": data.decode("utf-8", "replace")}
        except ConnectionRefusedError:
            return {"connected": False}

    def do_image(self, s):
        return {"image": OCI(self.subst(s["image"]), self).summary(s.get("paths", []))}

    def do_tree(self, s):
        return {"tree": tree(self.workdir / s["tree"])}

    def do_serve(self, s):
        srv = Server(s["serve"], s, self)
        self.servers.append(srv)
        for name in s.get("as", []) if isinstance(s.get("as"), list) else [s["as"]] if "as" in s else []:
            self.names[name] = int(srv.name) if srv.name.isdigit() else srv.name

    def do_write(self, s):
        write_files(self.workdir, s["write"], self)

    def do_remove(self, s):
        for n in s["remove"]:
            p = self.workdir / n
            shutil.rmtree(p) if p.is_dir() and not p.is_symlink() else p.unlink()

    def do_check(self, s):
        for rel, (a, b) in s["check"].items():
            va, vb = self.names[a], self.names[b]
            if rel == "equal" and va != vb:
                self.diffs.append(f"{a} = {show(va)} should equal {b} = {show(vb)}")
            if rel == "different" and va == vb:
                self.diffs.append(f"{a} should differ from {b}, both are {show(va)}")

    def do_end(self, s):
        code = self.sessions.pop(s["end"]).close()
        return {"exit": code}

    def do_session(self, s):
        self.session(s["session"])

    def close(self):
        for s in self.sessions.values():
            s.close()
        for s in self.servers:
            s.close()
        if not self.opts.keep:
            subprocess.run(["chmod", "-R", "u+rwX", str(self.workdir)], capture_output=True)
            shutil.rmtree(self.workdir, ignore_errors=True)


STEPS = ("query", "http", "cli", "fetch", "dial", "image", "tree", "serve", "write", "remove", "check", "end", "session")


def doc(q):
    return "\n".join(q) if isinstance(q, list) else q


def unwrap(v):
    """Follow single-key objects, as clients do with the answer to a chain of calls."""
    while isinstance(v, dict) and len(v) == 1:
        v = next(iter(v.values()))
    return v


def leaf(v):
    while isinstance(v, dict):
        if len(v) != 1:
            raise CaseError(f"`let` needs a query with one leaf, got {show(v)}")
        v = next(iter(v.values()))
    return v


def dig(v, path):
    for p in path.split(".") if path else []:
        try:
            v = v[int(p)] if isinstance(v, list) else v[p]
        except (KeyError, IndexError, TypeError):
            raise CaseError(f"nothing at {path} to bind in {show(v)}")
    return v


# ---------------------------------------------------------------- main

def load(dirs):
    cases = []
    for d in dirs:
        d = Path(d)
        sub = d / "cases"
        for f in sorted((sub if sub.is_dir() else d).glob("*.json")):
            for c in json.loads(f.read_text()):
                c.setdefault("area", f.stem)
                cases.append(c)
    return cases


def schema_fields(path):
    """`Type.field` of every object type of an SDL file."""
    out, cur = [], None
    for line in Path(path).read_text().splitlines():
        m = re.match(r"type (\w+)", line)
        if m:
            cur = m.group(1)
        elif line.startswith("}"):
            cur = None
        elif cur:
            m = re.match(r"  (\w+)[(:]", line)
            if m:
                out.append(f"{cur}.{m.group(1)}")
    return out


def coverage(cases, path):
    fields, seen = schema_fields(path), {}
    for c in cases:
        for f in c.get("fields", []):
            seen[f] = seen.get(f, 0) + 1
    missing = [f for f in fields if f not in seen]
    for f in missing:
        print(f)
    print(f"{len(fields) - len(missing)} of {len(fields)} fields have a case; {len(missing)} do not")


def run_one(case, opts):
    t, r = time.time(), None
    try:
        r = Run(case, opts)
        diffs = r.go()
        verdict = "differs" if diffs else "ok"
    except CaseError as e:
        verdict, diffs = "error", [str(e)]
    except Exception as e:
        verdict, diffs = "error", [f"{type(e).__name__}: {e}"] + (traceback.format_exc().splitlines() if opts.debug else [])
    finally:
        if r:
            try:
                r.close()
            except Exception:
                pass
    return verdict, diffs, time.time() - t


def main(argv=None, record=None):
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--cli", help="the CLI to test (default: $_EXPERIMENTAL_DAGGER_CLI_BIN, else dagger)", default=os.environ.get("_EXPERIMENTAL_DAGGER_CLI_BIN", "dagger"))
    ap.add_argument("--cases", action="append", help="folder with cases (default: beside this file); may be repeated")
    ap.add_argument("--only", help="regular expression on area/name")
    ap.add_argument("--area", action="append")
    ap.add_argument("--field", help="only cases touching this field, e.g. Container.withExec")
    ap.add_argument("--view", help="only cases recorded for this client version, e.g. v0.9.0")
    ap.add_argument("--without", action="append", default=[], help="skip cases that need this (registry, legacy, privileged, host-network, alone); may be repeated")
    ap.add_argument("-j", type=int, default=1)
    ap.add_argument("--timeout", type=float, default=120, help="seconds a single request may take")
    ap.add_argument("--registry", default=os.environ.get("CONFORMANCE_REGISTRY", "127.0.0.1:5055"), help="plain-http registry to publish to")
    ap.add_argument("--list", action="store_true")
    ap.add_argument("--coverage", metavar="SCHEMA", help="list fields of this SDL file that no case touches")
    ap.add_argument("--keep", action="store_true", help="keep the temporary folders")
    ap.add_argument("--debug", action="store_true")
    ap.add_argument("--failed-only", action="store_true", help="do not print a line for cases that pass")
    opts = ap.parse_args(argv)
    opts.record = record
    cases = [c for c in load(opts.cases or [HERE])
             if (not opts.only or re.search(opts.only, f"{c['area']}/{c['name']}"))
             and (not opts.area or c["area"] in opts.area)
             and (not opts.field or opts.field in c.get("fields", []))
             and (not opts.view or c.get("view", DEFAULT_VIEW) == opts.view)
             and not set(c.get("needs", [])) & set(opts.without)]
    if opts.coverage:
        return coverage(cases, opts.coverage)
    if opts.list:
        for c in cases:
            print(f"{c['area']}/{c['name']}", *(f"[{n}]" for n in c.get("needs", [])), c.get("view", ""))
        print(f"{len(cases)} cases")
        return
    if os.sep in opts.cli:
        opts.cli = str(Path(opts.cli).resolve())
    passed = failed = 0
    try:
        alone = [c for c in cases if "alone" in c.get("needs", [])]
        with concurrent.futures.ThreadPoolExecutor(max(1, opts.j)) as ex, concurrent.futures.ThreadPoolExecutor(1) as last:
            futures = [(c, ex.submit(run_one, c, opts)) for c in cases if c not in alone]
            others = [f for _, f in futures]
            for c in alone:  # these empty the engine's cache: nothing else may run
                futures.append((c, last.submit(lambda c=c: concurrent.futures.wait(others) and run_one(c, opts))))
            for c, f in futures:
                verdict, diffs, took = f.result()
                passed, failed = passed + (verdict == "ok"), failed + (verdict != "ok")
                if verdict != "ok" or not opts.failed_only:
                    print(f"{verdict:8}{c['area']}/{c['name']}  {took:.1f}s", flush=True)
                for d in diffs[:8]:
                    print(f"        {d}", flush=True)
    except KeyboardInterrupt:
        for _, f in futures:
            f.cancel()
        raise
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
