import { BadAnswer, member } from "./answer.ts";

/** What `isPointer` asks for, for error messages. */
export const POINTER_FORM = 'must be a JSON pointer (RFC 6901), such as "/credentials/access_token"';

/** RFC 6901: empty for the whole document, else `/` and a name for each step; `~0` is `~`, `~1` is `/`. */
export function isPointer(text: string): boolean {
  return /^(\/([^~/]|~[01])*)*$/.test(text);
}

/** The steps of a JSON pointer. */
export function pointerSteps(pointer: string): string[] {
  const steps = pointer.split("/").slice(1);
  return steps.map((step) => step.replaceAll("~1", "/").replaceAll("~0", "~"));
}

/** The steps of a field: names joined by dots, or a JSON pointer where it begins with a slash. */
export function fieldSteps(field: string): string[] {
  return field.startsWith("/") ? pointerSteps(field) : field.split(".");
}

/**
 * What `steps` lead to, and what it is in.
 *
 * @throws BadAnswer that names the step where the way ends.
 */
export function follow(json: unknown, steps: readonly string[]): { value: unknown; parent: unknown } {
  let value = json;
  let parent: unknown;
  for (const [i, step] of steps.entries()) {
    parent = value;
    value = Array.isArray(value) && /^(0|[1-9]\d*)$/.test(step) ? value[Number(step)] : member(value, step);
    if (value === undefined) {
      throw new BadAnswer(`JSON without ${steps.slice(0, i + 1).join(".")}`);
    }
  }
  return { value, parent };
}
