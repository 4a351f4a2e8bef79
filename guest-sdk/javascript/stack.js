// Stacks as QuickJS writes them: lines "    at function (file:line:column)", the innermost first.

Error.stackTraceLimit = 60;

const LINE = /^\s*at (?:(.*) \()?(.+?):(\d+)(?::\d+)?\)?$/;

/** Whether a file is of the project, and neither of the SDK nor of the interpreter. */
export const isUser = (file) => !file.startsWith("@flux/") && !file.startsWith("flux:") && !file.startsWith("<");

/** The frames of a stack, the innermost first: {file, line, function}. */
export function frames(stack) {
  if (typeof stack !== "string") return []; // Somebody has replaced Error.prepareStackTrace.
  const found = [];
  for (const text of stack.split("\n")) {
    const match = LINE.exec(text);
    if (match !== null) found.push({ file: match[2], line: Number(match[3]), function: match[1] || "<module>" });
  }
  return found;
}

/** The innermost line of the project's code: [file, line, function], or null. */
export function place(stack) {
  for (const frame of frames(stack)) {
    if (isUser(frame.file)) return [frame.file, frame.line, frame.function];
  }
  return null;
}
