/** `freshkey/reader`: a token that is fresh before every request, for programs of one's own. */
export { type ErrorClass, type ErrorCode, FreshkeyError } from "../core/errors.ts";
export { createFetch, type FetchOptions } from "./fetch.ts";
export { type GetOptions, KeyFile, type KeyFileOptions, openKeyFile, type Rotation } from "./key-file.ts";
