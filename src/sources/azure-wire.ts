import type { HttpClient, PipelineRequest, PipelineResponse } from "@azure/core-rest-pipeline";

export interface Exchange {
  readonly host: string;
  readonly response?: PipelineResponse;
  readonly error?: unknown;
}

/** The SDK's HTTP client with two things added: a deadline, which the SDK does not have, and a memory of one exchange. */
export class Wire implements HttpClient {
  last: Exchange | undefined;
  readonly #inner: HttpClient;
  readonly #signal: AbortSignal;

  constructor(inner: HttpClient, signal: AbortSignal) {
    this.#inner = inner;
    this.#signal = signal;
  }

  async sendRequest(request: PipelineRequest): Promise<PipelineResponse> {
    const { host } = new URL(request.url);
    request.abortSignal = this.#signal;
    // A machine's own endpoints, which alone are http: the proxy of the environment would ask its own machine.
    if (request.url.startsWith("http:")) delete request.agent;
    try {
      const response = await this.#inner.sendRequest(request);
      this.last = { host, response };
      return response;
    } catch (error) {
      this.last = { host, error };
      throw error;
    }
  }
}
