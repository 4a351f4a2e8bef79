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
  if (typeof stack !== "string") return null;
  // Without the expression above: every call of every function comes through here, and the lines of the SDK are first.
  for (let start = 0, end; start < stack.length; start = end + 1) {
    end = stack.indexOf("\n", start);
    if (end < 0) end = stack.length;
    const open = stack.indexOf(" (", start);
    const column = stack.lastIndexOf(":", end);
    if (open < 0 || open > end || column < open) continue; // (native)
    const file = stack.slice(open + 2, stack.lastIndexOf(":", column - 1));
    if (isUser(file)) {
      const line = Number(stack.slice(open + 2 + file.length + 1, column));
      return [file, line, stack.slice(start + 7, open) || "<module>"];
    }
  }
  return null;
}
