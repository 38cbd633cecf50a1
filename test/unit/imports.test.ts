/** The layers of src: who may import whom. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { builtinModules } from "node:module";
import { dirname, join, normalize } from "node:path";
import { describe, it } from "node:test";
import { fileURLToPath } from "node:url";

/** From the ground up. A file imports from its own folder or from one before it. */
const LAYERS = ["core", "os", "reader", "clients", "sources", "config", "agent", "service", "demo", "cli"];

interface Import {
  readonly file: string;
  /** A path below src, or a package's name. */
  readonly target: string;
  readonly kind: "file" | "package" | "node";
  /** Gone when the program runs. */
  readonly typeOnly: boolean;
}

/** `import`, `export … from`, `import(…)`, `import type`: whatever names a module, outside of comments. */
function specifiers(source: string): { specifier: string; typeOnly: boolean }[] {
  const code = source.replace(/^\s*(\/\*[\s\S]*?\*\/|\/\/.*)/gm, "");
  const statements = code.matchAll(/^(?:import|export)\s+(type\s)?(?:[\w*{}\s,$]+?\sfrom\s+)?["']([^"']+)["']/gm);
  const calls = code.matchAll(/(typeof\s+)?\bimport\(\s*["']([^"']+)["']/g);
  return [...statements, ...calls].map(([, type, specifier]) => ({
    specifier: specifier as string,
    typeOnly: type !== undefined,
  }));
}

function importsOf(file: string, source: string): Import[] {
  return specifiers(source).map(({ specifier, typeOnly }) => {
    if (specifier.startsWith("."))
      return { file, target: normalize(join(dirname(file), specifier)), kind: "file", typeOnly };
    const parts = specifier.split("/");
    const name = parts.slice(0, specifier.startsWith("@") ? 2 : 1).join("/");
    const node = specifier.startsWith("node:") || builtinModules.includes(name);
    return { file, target: node ? specifier : name, kind: node ? "node" : "package", typeOnly };
  });
}

const layerOf = (path: string) => LAYERS.indexOf(path.split("/")[0] as string);
const goesUp = ({ file, target, kind }: Import) => kind === "file" && layerOf(target) > layerOf(file);
const within = (folder: string) => (found: Import) => found.file.startsWith(`${folder}/`);
const show = (found: Import[]) => found.map(({ file, target }) => `${file} imports ${target}`);

const src = fileURLToPath(new URL("../../src/", import.meta.url));
const files = (readdirSync(src, { recursive: true }) as string[]).filter((file) => file.endsWith(".ts")).sort();
const imports = files.flatMap((file) => importsOf(file, readFileSync(join(src, file), "utf8")));
const packages = imports.filter(({ kind }) => kind === "package");

describe("the check itself", () => {
  it("sees every form of import", () => {
    const source = [
      'import a from "one";',
      'import type { B } from "two/deep";',
      "import {\n  c,\n  type D as E,\n} from '@scope/three/deep';",
      'import "node:fs";',
      'export * from "../os/paths.ts";',
      'export { f } from "./g.ts";',
      'const h = await import("four");',
      'let i: typeof import("five");',
      '// import "not-this";',
      '/* import "nor-this" */',
      ' * import "nor-that" from',
    ].join("\n");
    const expected = ["one", "two", "@scope/three", "node:fs", "os/paths.ts", "reader/g.ts", "four", "five"];
    const found = importsOf("reader/index.ts", source);
    assert.deepEqual(
      found.map(({ target }) => target),
      expected,
    );
    assert.deepEqual(
      found.filter(({ typeOnly }) => typeOnly).map(({ target }) => target),
      ["two", "five"],
    );
  });

  it("knows up from down", () => {
    const from = (file: string, target: string) => goesUp({ file, target, kind: "file", typeOnly: false });
    assert.equal(from("core/token.ts", "os/paths.ts"), true);
    assert.equal(from("reader/index.ts", "agent/renew.ts"), true);
    assert.equal(from("cli/main.ts", "core/token.ts"), false);
    assert.equal(from("os/paths.ts", "os/clock.ts"), false);
  });
});

describe("imports in src", () => {
  it("are found, and every file is in a layer", () => {
    assert.ok(imports.length > files.length, `${imports.length} imports in ${files.length} files`);
    assert.deepEqual(
      files.filter((file) => layerOf(file) < 0),
      [],
    );
  });

  it("run downward only", () => {
    assert.deepEqual(show(imports.filter(goesUp)), []);
  });

  it("stay within src, lead to files that are there, and name them with their ending", () => {
    assert.deepEqual(show(imports.filter(({ kind, target }) => kind === "file" && !files.includes(target))), []);
  });

  it("name Node.js's own modules with node:", () => {
    assert.deepEqual(show(imports.filter(({ kind, target }) => kind === "node" && !target.startsWith("node:"))), []);
  });

  it("bring neither I/O nor a package into core", () => {
    const pure = ["node:crypto", "node:util", "node:assert"];
    const found = imports.filter(
      ({ kind, target, typeOnly }) => kind !== "file" && !typeOnly && !pure.includes(target),
    );
    assert.deepEqual(show(found.filter(within("core"))), []);
  });

  it("bring chokidar alone into the reader, in one file, and nothing that brings in more", () => {
    const reached = reachable(files.filter((file) => file.startsWith("reader/")));
    const found = packages.filter(({ file, typeOnly }) => reached.has(file) && !typeOnly);
    assert.deepEqual([...new Set(found.map(({ target }) => target))], ["chokidar"]);
    assert.equal(new Set(found.map(({ file }) => file)).size, 1);
  });

  it("bring cloud SDKs into sources alone", () => {
    const sdk = ({ target }: Import) => /^@(azure|aws-sdk|aws|smithy)\//.test(target);
    assert.deepEqual(show(packages.filter((found) => sdk(found) && !within("sources")(found))), []);
  });
});

/** The files that are loaded with `roots`. */
function reachable(roots: readonly string[]): Set<string> {
  const reached = new Set(roots);
  // A Set's iterator visits what is added on the way.
  for (const file of reached) {
    for (const found of imports)
      if (found.file === file && found.kind === "file" && !found.typeOnly) reached.add(found.target);
  }
  return reached;
}
