// Starts an example by its folder's name: npm run example first. Plain JavaScript, so that an old Node can say what is
// wrong instead of stumbling over the first type.
const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
// The example sees only its own arguments.
const [example = ''] = process.argv.splice(2, 1)

if (major < 22 || (major === 22 && minor < 18)) {
  fail(
    `Node ${process.versions.node} is too old, 22.18 or newer is needed: use "npm run example ${example}", which brings its own.`,
  )
}
if (!process.execArgv.includes('--conditions=source')) fail(`Use "npm run example ${example}".`)
if (!/^[a-z-]+$/.test(example)) fail('Name a folder of examples/: npm run example first')
await import(`./${example}/main.ts`)

function fail(message) {
  console.error(message)
  process.exit(1)
}
