const UNITS = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;

/** What `parseDuration` accepts, for error messages. */
export const DURATION_FORM = 'a number with a unit (ms, s, m, h, d), such as "30s", "4m" or "1h30m"';

/** A duration such as `30s` or `1h30m` in milliseconds; undefined if it is not one. There is no default unit. */
export function parseDuration(text: string): number | undefined {
  if (!/^(\d+(\.\d+)?(ms|s|m|h|d))+$/.test(text)) return undefined;
  let total = 0;
  for (const [, number, unit] of text.matchAll(/([\d.]+)(ms|s|m|h|d)/g)) {
    total += Number(number) * UNITS[unit as keyof typeof UNITS];
  }
  return Number.isSafeInteger(Math.round(total)) ? Math.round(total) : undefined;
}

/** Milliseconds as a person says them, two units at most: `850ms`, `4s`, `58m 30s`, `1h 5m`, `2d 3h`. */
export function formatDuration(ms: number): string {
  const total = Math.abs(ms);
  const sign = ms < 0 ? "-" : "";
  if (total < 1_000) return `${sign}${Math.round(total)}ms`;
  const seconds = Math.round(total / 1_000);
  const parts: [number, string][] = [
    [Math.floor(seconds / 86_400), "d"],
    [Math.floor(seconds / 3_600) % 24, "h"],
    [Math.floor(seconds / 60) % 60, "m"],
    [seconds % 60, "s"],
  ];
  const first = parts.findIndex(([amount]) => amount > 0);
  const shown = parts.slice(first, first + 2).filter(([amount]) => amount > 0);
  return sign + shown.map(([amount, unit]) => `${amount}${unit}`).join(" ");
}
