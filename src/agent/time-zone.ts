/** What the clock on the wall shows in a time zone, and when it is changed. Instants are epoch milliseconds. */

const DAY = 24 * 3_600_000;
const SECOND = 1_000;

export interface TimeZone {
  /** By how many milliseconds the wall's clock is ahead of UTC at an instant. */
  offsetAt(instant: number): number;
  /** The first instant in (after, until] from which on the offset is another one; undefined if there is none. */
  firstChange(after: number, until: number): number | undefined;
}

/** @param name an IANA time zone; this machine's own where there is none. */
export function openTimeZone(name: string | undefined): TimeZone {
  const form = new Intl.DateTimeFormat("en", { timeZone: name, timeZoneName: "longOffset" });
  const offsetAt = (instant: number) => {
    const offset = form.formatToParts(instant).find(({ type }) => type === "timeZoneName")?.value ?? "";
    const [, sign, hours = 0, minutes = 0] = /^GMT([+-])(\d+):(\d+)/.exec(offset) ?? [];
    return (sign === "-" ? -1 : 1) * (Number(hours) * 60 + Number(minutes)) * 60_000;
  };
  /** No zone changes its clock twice within a day. Changes are at whole seconds. */
  const firstChange = (after: number, until: number) => {
    const before = offsetAt(after);
    for (let day = after; day < until; day += DAY) {
      let changed = Math.ceil(Math.min(day + DAY, until) / SECOND);
      if (offsetAt(changed * SECOND) === before) continue;
      for (let same = Math.floor(day / SECOND); changed - same > 1; ) {
        const middle = Math.floor((same + changed) / 2);
        if (offsetAt(middle * SECOND) === before) same = middle;
        else changed = middle;
      }
      return changed * SECOND;
    }
    return undefined;
  };
  return { offsetAt, firstChange };
}
