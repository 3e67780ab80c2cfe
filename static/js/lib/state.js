// Describe the state of a conversation from its record. Pure; no DOM. Keep the labels equal to those in
// `conversations/web/pages.py`.

const EXECUTION = {
  running: ["Running", "busy"],
  waiting_for_confirmation: ["Waiting for you", "attention"],
  finished: ["Finished", "good"],
  error: ["Error", "bad"],
  stuck: ["Stuck", "bad"],
  paused: ["Stopped", "quiet"],
};

export const PHASES = {
  WORKING: "Preparing",
  WAITING_FOR_SANDBOX: "Starting a sandbox",
  PREPARING_REPOSITORY: "Fetching the repository",
  RUNNING_SETUP_SCRIPT: "Running the setup script",
  SETTING_UP_GIT_HOOKS: "Setting up git hooks",
  SETTING_UP_SKILLS: "Loading skills",
  STARTING_CONVERSATION: "Starting the agent",
  READY: "Ready",
  ERROR: "Failed",
};

/** Return `{label, tone, detail}` for the state chip. */
export function chipOf(record) {
  const task = record.start_task;
  if (record.status === "starting") {
    const place = task?.queue_position;
    if (task?.detail) return { label: "Waiting for the engine", tone: "busy", detail: task.detail };
    return { label: place ? `Waiting, number ${place}` : "Starting", tone: "busy", detail: place ? "" : (PHASES[task?.phase] ?? "") };
  }
  if (record.status === "failed") return { label: "Failed", tone: "bad", detail: record.status_detail };
  const asleep = ["paused", "stopped"].includes(record.status) && ["running", "idle"].includes(record.execution_status);
  if (asleep) return { label: "Asleep", tone: "quiet", detail: "Send a message to start the sandbox again." };
  const [label, tone] = EXECUTION[record.execution_status] ?? ["Ready", "quiet"];
  return { label, tone, detail: record.status_detail ?? "" };
}

/** Return the commands that apply now: `{canStop, resume}`. `resume` is the label of the button, or null. */
export function commandsOf(record) {
  const live = record.status === "running";
  const canStop = live && record.execution_status === "running";
  let resume = null;
  if (record.status === "failed") resume = "Try again";
  else if (record.status !== "starting") {
    resume = { paused: "Resume", error: "Retry", stuck: "Continue" }[record.execution_status] ?? null;
    if (!resume && ["paused", "stopped"].includes(record.status)) resume = "Wake";
  }
  return { canStop, resume };
}

/** Return whether the agent waits for an approval that is still open. */
export function asksNow(record) {
  return record.execution_status === "waiting_for_confirmation" && record.status !== "failed" && record.asked_seq !== null;
}

/** Return the phases of a start in order, each as `{name, label, state: done|now|failed, seconds, detail, percent}`. */
export function phasesOf(task, now = Date.now()) {
  if (!task) return [];
  return (task.phases ?? [])
    .filter((phase) => phase.phase !== "READY" && phase.phase !== "ERROR")
    .map((phase, index, all) => {
      const isLast = index === all.length - 1;
      const failed = isLast && task.phase === "ERROR";
      // Between two attempts at a phase, its entry is finished, but the start continues.
      const isRunning = isLast && !task.finished_at && !failed;
      const end = isRunning ? now : Date.parse(phase.finished_at ?? all[index + 1]?.started_at ?? task.finished_at);
      return {
        name: phase.phase,
        label: PHASES[phase.phase] ?? phase.phase,
        state: failed ? "failed" : isRunning ? "now" : "done",
        seconds: Math.max(0, (end - Date.parse(phase.started_at)) / 1000),
        detail: phase.detail ?? "",
        percent: isRunning ? (phase.percent ?? null) : null,
      };
    });
}
